// The weights of an artifact in memory, as tensors that compiled code reads in place; as runtime/weights.py.
#ifndef HEDDLE_WEIGHTS_H_
#define HEDDLE_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <string>

#include "artifact.h"
#include "memory_region.h"
#include "tensor.h"

namespace heddle {

class Weights {
 public:
  // Error where the manifest and the file disagree.
  explicit Weights(const Artifact& artifact);
  // A tensor that the manifest has.
  const Tensor& at(const std::string& name) const { return tensors_.at(name); }
  uint64_t bytes() const { return data_.size(); }

 private:
  Region data_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace heddle

#endif  // HEDDLE_WEIGHTS_H_
