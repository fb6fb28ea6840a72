// Fields of a manifest that must agree with each other.
#include <algorithm>
#include <set>

#include "error.h"
#include "manifest.h"
#include "text.h"

namespace heddle {

namespace {

constexpr int64_t kMostRecord = int64_t{1} << 32;  // bytes

std::string at(const char* field, size_t i) { return std::string("manifest.") + field + "[" + std::to_string(i) + "]"; }

void check_function(const Manifest& manifest, size_t i) {
  const FunctionInfo& function = manifest.functions[i];
  const std::string path = at("functions", i);
  int64_t last = 0;
  for (const InstanceInfo& instance : function.instances) {
    if (instance.max_rows < last) throw bad_artifact(path + ".instances must be ordered by max_rows");
    last = instance.max_rows;
  }
  if (function.instances.empty()) throw bad_artifact(path + ".instances is empty");
  // More rows than this never come, and fewer would leave a step without an instance.
  if (function.name != "head" && last != manifest.plan.max_tokens) {
    throw bad_artifact(path + ".instances take up to " + std::to_string(last) + " rows, manifest.plan.max_tokens is " +
                       std::to_string(manifest.plan.max_tokens));
  }
  for (size_t j = 0; j < manifest.weights.size(); ++j) {
    for (const std::string& name : function.params) {
      if (!manifest.weights[j].tensors.count(name)) {
        throw bad_artifact(path + ".params names " + quote(name) + ", which " + at("weights", j) + ".tensors lacks");
      }
    }
  }
}

void check_cache(const CacheGroup& group, size_t i) {
  int64_t size = item_bytes(group.dtype);
  if (!size) throw bad_artifact(at("caches", i) + ".dtype is " + quote(group.dtype) + ", which is not known");
  for (int64_t extent : group.record_shape) {
    size = extent > 0 && size <= kMostRecord / extent ? size * extent : 0;
  }
  if (size != group.record_bytes) {
    throw bad_artifact(at("caches", i) + ".record_bytes is " + std::to_string(group.record_bytes) +
                       ", its record_shape " + shape_text(group.dtype, group.record_shape) + " does not need that");
  }
}

void check_targets(const Manifest& manifest) {
  std::set<std::string> names;
  for (const TargetInfo& target : manifest.targets) names.insert(target.name);
  if (names.empty() || names.size() < manifest.targets.size()) {
    throw bad_artifact("manifest.targets must have a target, and each once");
  }
  for (size_t i = 0; i < manifest.targets.size(); ++i) {
    const TargetInfo& target = manifest.targets[i];
    const bool held = std::any_of(manifest.weights.begin(), manifest.weights.end(),
                                  [&](const WeightsInfo& weights) { return weights.file == target.weights; });
    if (!held) {
      throw bad_artifact(at("targets", i) + ".weights is " + quote(target.weights) + ", which manifest.weights lacks");
    }
    if (!manifest.files.count(target.library)) {
      throw bad_artifact(at("targets", i) + ".library needs " + quote(target.library) + ", which manifest.files lacks");
    }
  }
}

// Names of files stay inside of the artifact.
void check_path(const std::string& path) {
  const bool plain =
      std::none_of(path.begin(), path.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; });
  bool inside = !path.empty() && path.front() != '/' && plain;
  for (size_t begin = 0; begin <= path.size() && inside;) {
    const size_t end = std::min(path.find('/', begin), path.size());
    inside = path.substr(begin, end - begin) != "..";
    begin = end + 1;
  }
  if (!inside) throw bad_artifact("manifest.files has " + quote(path) + ", which points outside of the artifact");
}

}  // namespace

int64_t item_bytes(std::string_view dtype) {
  if (dtype == "int64") return 8;
  if (dtype == "float32" || dtype == "int32") return 4;
  if (dtype == "float16" || dtype == "bfloat16" || dtype == "uint16") return 2;
  if (dtype == "int8" || dtype == "uint8") return 1;
  return 0;
}

void check_manifest(const Manifest& manifest) {
  const ModelInfo& model = manifest.model;
  if (model.kind != "decoder" && model.kind != "encoder") {
    throw bad_artifact("manifest.model.kind is " + quote(model.kind) + "; known are decoder, encoder");
  }
  if (model.num_heads % model.num_kv_heads) {
    throw bad_artifact("manifest.model.num_heads is " + std::to_string(model.num_heads) +
                       ", which its num_kv_heads=" + std::to_string(model.num_kv_heads) + " do not share evenly");
  }
  for (size_t i = 0; i < manifest.functions.size(); ++i) check_function(manifest, i);
  for (size_t i = 0; i < manifest.caches.size(); ++i) check_cache(manifest.caches[i], i);
  for (const auto& [path, info] : manifest.files) check_path(path);
  check_targets(manifest);
  for (size_t i = 0; i < manifest.weights.size(); ++i) {
    if (!manifest.files.count(manifest.weights[i].file)) {
      throw bad_artifact(at("weights", i) + ".file needs " + quote(manifest.weights[i].file) +
                         ", which manifest.files lacks");
    }
  }
}

}  // namespace heddle
