// Chooses tokens with the kernels of the artifact; as runtime/sampler/sampler.py, with the same arrays.
#ifndef HEDDLE_SAMPLER_H_
#define HEDDLE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "library.h"
#include "sequence.h"
#include "tensor.h"

namespace heddle {

constexpr int32_t kNoToken = -1;  // a row that allows no choice: it has a NaN, +inf, or nothing but -inf

class Sampler {
 public:
  Sampler(const Library& library, int64_t vocab_size);
  // The next token of each sequence from its row of `logits` float32[sequences, vocab], kNoToken where there is none. A
  // row's choice depends on its logits and its sequence alone.
  std::vector<int32_t> sample(const Tensor& logits, const std::vector<const Sequence*>& sequences);

 private:
  // One row of logits that is to be drawn, and where its token goes.
  struct Row {
    int64_t row;
    const Sequence* sequence;
    int32_t* token;
  };
  void choose(const Tensor& logits, const std::vector<Row>& rows);
  Tensor edit(const Tensor& logits, const std::vector<Row>& rows);

  Function choose_, edit_;
  int64_t vocab_size_;
  Array<int64_t> table_, edit_table_;
  Array<float> scales_, penalties_, biases_, edited_;
  Array<int32_t> tokens_, lists_;
};

}  // namespace heddle

#endif  // HEDDLE_SAMPLER_H_
