#include "weights.h"

#include "error.h"
#include "safetensors.h"
#include "text.h"

namespace heddle {

Weights::Weights(const Artifact& artifact) : data_(load_file(artifact.file(artifact.weights().file))) {
  const std::string& file = artifact.weights().file;
  const auto entries = read_safetensors(data_.data(), data_.size(), file);
  for (const auto& [name, info] : artifact.weights().tensors) {
    const auto found = entries.find(name);
    if (found == entries.end() || found->second.dtype != info.dtype || found->second.shape != info.shape) {
      throw bad_artifact(
          "the tensor " + quote(name) + " of manifest.weights is " + shape_text(info.dtype, info.shape) + ", " + file +
              " has " +
              (found == entries.end() ? "no such tensor" : shape_text(found->second.dtype, found->second.shape)),
          "", kCopyArtifact);
    }
    const TensorEntry& entry = found->second;
    if (entry.start % kAlignment) {
      throw bad_artifact("the tensor " + quote(name) + " of " + file + " begins at byte " +
                             std::to_string(entry.start) + ", which is no multiple of " + std::to_string(kAlignment),
                         "compiled code loads whole vectors", "compile again");
    }
    const tvm::ffi::ShapeView shape(info.shape.data(), info.shape.size());
    tensors_.emplace(name, borrow(data_.data() + entry.start, shape, storage_type(info.dtype)));
  }
}

}  // namespace heddle
