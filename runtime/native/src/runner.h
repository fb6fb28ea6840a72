// The model runner: compiled functions, weights and the KV pool behind one call a step; as runtime/model.py.
#ifndef HEDDLE_RUNNER_H_
#define HEDDLE_RUNNER_H_

#include <tvm/ffi/container/array.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "artifact.h"
#include "library.h"
#include "memory_region.h"
#include "plan.h"
#include "tensor.h"
#include "weights.h"

namespace heddle {

// The instances of one compiled function, with its weights.
class CompiledFunction {
 public:
  CompiledFunction(const Manifest& manifest, const Library& library, const Weights& weights, const char* name);
  // Calls the smallest instance that takes the rows.
  template <typename... Args>
  Tensor operator()(int64_t rows, const Args&... args) const {
    return instance(rows)(args..., params_).template cast<Tensor>();
  }
  int64_t max_rows() const { return instances_.back().max_rows; }
  // Up to how many rows a call is served by code that is made for few.
  int64_t few_rows() const { return instances_.size() > 1 ? instances_[instances_.size() - 2].max_rows : 0; }

 private:
  struct Instance {
    int64_t max_rows;
    Function function;
  };
  const Function& instance(int64_t rows) const;

  tvm::ffi::Array<Tensor> params_;
  std::vector<Instance> instances_;
};

// Loads an artifact and runs steps. One thread may call it, that which made it.
class ModelRunner {
 public:
  // `threads` and `kv_bytes` are 0 for what the machine suggests.
  ModelRunner(const Artifact& artifact, int threads, uint64_t kv_bytes);

  // Run one step: `tokens` in the order of `sequences`. Then gives the logits float32[k, vocab] of `logit_rows`
  // (ascending rows of the step) to `take`, several times where they are many; the second argument says which of them
  // come first.
  void forward(const std::vector<PlanSequence>& sequences, const std::vector<int32_t>& tokens,
               const std::vector<int32_t>& logit_rows, const std::function<void(const Tensor&, size_t)>& take);

  const Library& library() const { return library_; }
  int threads() const { return threads_; }
  int64_t num_pages() const { return num_pages_; }
  uint64_t kv_bytes() const { return pool_.size(); }
  uint64_t weights_bytes() const { return weights_.bytes(); }

 private:
  void warm_up();

  const Manifest& manifest_;
  int threads_;
  Library library_;
  int64_t num_pages_;
  Weights weights_;
  Region pool_;  // after the weights: what they have taken is no longer there for it
  Tensor cache_;
  CompiledFunction embed_, body_, head_;
  PlanBuilder plan_;
  ResultMemory results_;
  Array<int32_t> tokens_, rows_;
  int64_t logit_rows_;
};

}  // namespace heddle

#endif  // HEDDLE_RUNNER_H_
