// The header of a safetensors file, as runtime/safetensors.py reads it: every offset is checked before it is used.
#ifndef HEDDLE_SAFETENSORS_H_
#define HEDDLE_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace heddle {

// A tensor in a file: type ("float32", "bfloat16", ...), shape, and where its bytes are from the start of the file.
struct TensorEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t start = 0;
  uint64_t bytes = 0;
};

// The tensors of a file whose bytes are `data`, by name, padding left out. Error, naming file and tensor, where the
// file is truncated, corrupt, or of another format.
std::map<std::string, TensorEntry> read_safetensors(const uint8_t* data, uint64_t size, const std::string& name);

}  // namespace heddle

#endif  // HEDDLE_SAFETENSORS_H_
