#include "manifest.h"

#include <optional>

#include "error.h"
#include "json.h"
#include "text.h"

namespace heddle {

namespace {

constexpr int64_t kMostCount = INT32_MAX;  // of rows, tokens, heads: what the kernels' int32 take
constexpr int64_t kMostBytes = int64_t{1} << 48;

int64_t count(const Json& value, int64_t least = 1) { return value.integer(least, kMostCount); }

std::vector<int64_t> shape(const Json& value) {
  std::vector<int64_t> found;
  for (const Json& extent : value.list()) found.push_back(extent.integer(0, kMostBytes));
  return found;
}

TargetInfo read_target(const Json& value) {
  Fields fields = value.fields({"name", "arch", "features", "tvm", "library", "weights"});
  fields["tvm"].entries();  // the compiler's business
  return {fields["name"].text(), fields["arch"].text(), fields["features"].texts(), fields["library"].text(),
          fields["weights"].text()};
}

ModelInfo read_model(const Json& value) {
  Fields fields =
      value.fields({"architecture", "kind", "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads",
                    "head_dim", "context_length", "weight_dtype", "schemes", "quantized", "kv_dtype", "config"});
  ModelInfo model;
  model.architecture = fields["architecture"].text();
  model.kind = fields["kind"].text();
  model.vocab_size = count(fields["vocab_size"]);
  model.hidden_size = count(fields["hidden_size"]);
  model.num_heads = count(fields["num_heads"]);
  model.num_kv_heads = count(fields["num_kv_heads"]);
  model.context_length = count(fields["context_length"]);
  count(fields["num_layers"], 0);
  count(fields["head_dim"]);
  for (const char* name : {"weight_dtype", "kv_dtype"}) fields[name].text();
  for (const char* name : {"schemes", "quantized", "config"}) fields[name].entries();
  return model;
}

FunctionInfo read_function(const Json& value) {
  Fields fields = value.fields({"name", "params", "instances"});
  FunctionInfo function{fields["name"].text(), fields["params"].texts(), {}};
  for (const Json& item : fields["instances"].list()) {
    Fields instance = item.fields({"symbol", "max_rows"});
    function.instances.push_back({instance["symbol"].text(), count(instance["max_rows"])});
  }
  return function;
}

WeightsInfo read_weights(const Json& value) {
  Fields fields = value.fields({"file", "tensors"});
  WeightsInfo weights{fields["file"].text(), {}};
  for (const auto& [name, item] : fields["tensors"].entries()) {
    Fields tensor = item.fields({"dtype", "shape"});
    weights.tensors[name] = {tensor["dtype"].text(), shape(tensor["shape"])};
  }
  return weights;
}

CacheGroup read_cache(const Json& value) {
  Fields fields = value.fields({"name", "kind", "layers", "page_tokens", "dtype", "record_shape", "record_bytes"});
  fields["name"].text();
  count(fields["layers"], 0);
  return {fields["kind"].text(), count(fields["page_tokens"]), fields["dtype"].text(), shape(fields["record_shape"]),
          fields["record_bytes"].integer(1, kMostBytes)};
}

void read_plan(const Json& value, Manifest* manifest) {
  Fields fields = value.fields({"max_tokens", "max_seqs", "kv_heads", "tile_rows", "tree_words", "window", "offsets"});
  // Bounds that keep every offset far inside of an int32.
  PlanLayout& plan = manifest->plan;
  plan.max_tokens = fields["max_tokens"].integer(1, 1 << 22);
  plan.max_seqs = fields["max_seqs"].integer(1, 1 << 20);
  plan.kv_heads = fields["kv_heads"].integer(1, 1 << 20);
  plan.tile_rows = fields["tile_rows"].integer(1, 1 << 22);
  plan.tree_words = fields["tree_words"].integer(0, kMostTreeWords);
  manifest->window = count(fields["window"], 0);
  const auto expected = plan.offsets();
  Fields offsets = fields["offsets"].fields({PlanLayout::kArrays.begin(), PlanLayout::kArrays.end()});
  for (size_t i = 0; i < expected.size(); ++i) {
    const Json& offset = offsets[PlanLayout::kArrays[i]];
    const int64_t found = count(offset, 0);
    if (found != expected[i]) {
      throw bad_artifact(
          offset.path() + " is " + std::to_string(found) + ", this Heddle puts it at " + std::to_string(expected[i]),
          "the kernels were compiled for another plan layout", "compile again");
    }
  }
}

std::vector<int32_t> read_end_tokens(const Json& generation) {
  std::vector<int32_t> found;
  generation.entries();  // an object, whatever else is in it
  const std::optional<Json> ids = generation.find("eos_token_ids");
  if (!ids) return found;
  for (const Json& id : ids->list()) found.push_back(static_cast<int32_t>(count(id, 0)));
  return found;
}

void check_version(const Json& root) {
  const std::optional<Json> kind = root.find("kind"), version = root.find("format_version");
  if (kind && kind->is_text() && kind->text() == "module") {
    throw bad_artifact("the artifact holds a compiled torch module, not a language model", "",
                       "open it in Python, with heddle.load_module");
  }
  if (!version) throw bad_artifact("manifest.format_version is missing", "", "compile the model again");
  const int64_t found = version->integer(INT64_MIN, INT64_MAX);
  if (found == kFormatVersion) return;
  const std::optional<Json> writer = root.find("heddle_version");
  throw bad_artifact(
      "manifest.format_version is " + std::to_string(found) + ", this Heddle reads " + std::to_string(kFormatVersion),
      "the artifact was written by another version of Heddle",
      "compile the model again, or install the Heddle version that wrote it" +
          (writer && writer->is_text() ? " (" + quote(writer->text()) + ")" : ""));
}

}  // namespace

const FunctionInfo& Manifest::function(std::string_view name) const {
  std::vector<std::string> names;
  for (const FunctionInfo& function : functions) {
    if (function.name == name) return function;
    names.push_back(function.name);
  }
  throw bad_artifact("manifest.functions has no " + quote(name) + "; it has " + joined(names));
}

const WeightsInfo& Manifest::weights_of(const TargetInfo& target) const {
  for (const WeightsInfo& one : weights) {
    if (one.file == target.weights) return one;
  }
  throw bad_artifact("manifest.weights has no " + quote(target.weights));
}

Manifest parse_manifest(std::string_view text) {
  JsonDocument document(text, "manifest.json", "manifest");
  check_version(document.root());  // before anything else: another version may have other fields
  Fields fields = document.root().fields({"format_version", "heddle_version", "tvm_version", "ffi_version", "targets",
                                          "model", "pooling", "generation", "functions", "weights", "caches", "plan",
                                          "memory", "files", "compile_seconds"});
  Manifest manifest;
  fields["heddle_version"].text();
  manifest.tvm_version = fields["tvm_version"].text();
  manifest.ffi_version = fields["ffi_version"].text();
  for (const Json& item : fields["targets"].list()) manifest.targets.push_back(read_target(item));
  manifest.model = read_model(fields["model"]);
  for (const char* name : {"pooling", "compile_seconds"}) fields[name].entries();  // of no use here
  manifest.eos_token_ids = read_end_tokens(fields["generation"]);
  for (const Json& item : fields["functions"].list()) manifest.functions.push_back(read_function(item));
  for (const Json& item : fields["weights"].list()) manifest.weights.push_back(read_weights(item));
  for (const Json& item : fields["caches"].list()) manifest.caches.push_back(read_cache(item));
  read_plan(fields["plan"], &manifest);
  Fields memory = fields["memory"].fields({"weights_bytes", "workspace_bytes", "record_bytes", "formula"});
  manifest.memory = {memory["weights_bytes"].integer(0, kMostBytes), memory["workspace_bytes"].integer(0, kMostBytes)};
  for (const auto& [name, item] : fields["files"].entries()) {
    Fields file = item.fields({"sha256", "bytes"});
    manifest.files[name] = {file["sha256"].text(), file["bytes"].integer(0, kMostBytes)};
  }
  check_manifest(manifest);
  return manifest;
}

}  // namespace heddle
