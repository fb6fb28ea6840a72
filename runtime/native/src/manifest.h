// The schema of an artifact's manifest.json, version 7, as runtime/manifest.py: what generating text needs of it.
#ifndef HEDDLE_MANIFEST_H_
#define HEDDLE_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "plan_layout.h"

namespace heddle {

constexpr int64_t kFormatVersion = 7;

// A library and what it was compiled for. `features` are flags that the CPU must have, as /proc/cpuinfo spells them.
struct TargetInfo {
  std::string name;
  std::string arch;
  std::vector<std::string> features;
  std::string library;
  std::string weights;
};

struct ModelInfo {
  std::string architecture;
  std::string kind;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t context_length = 0;
};

struct InstanceInfo {
  std::string symbol;
  int64_t max_rows = 0;
};

// A compiled function: its weights in call order, its instances by ascending rows.
struct FunctionInfo {
  std::string name;
  std::vector<std::string> params;
  std::vector<InstanceInfo> instances;
};

struct TensorInfo {
  std::string dtype;
  std::vector<int64_t> shape;
};

struct WeightsInfo {
  std::string file;
  std::map<std::string, TensorInfo> tensors;
};

// A pool of pages, `[pages, *record_shape]`. One page is one record of `record_bytes` bytes.
struct CacheGroup {
  std::string kind;
  int64_t page_tokens = 0;
  std::string dtype;
  std::vector<int64_t> record_shape;
  int64_t record_bytes = 0;
};

struct MemoryInfo {
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;
};

struct FileInfo {
  std::string sha256;
  int64_t bytes = 0;
};

struct Manifest {
  std::string tvm_version;
  std::string ffi_version;
  std::vector<TargetInfo> targets;
  ModelInfo model;
  std::vector<int32_t> eos_token_ids;
  std::vector<FunctionInfo> functions;
  std::vector<WeightsInfo> weights;
  std::vector<CacheGroup> caches;
  PlanLayout plan;
  int64_t window = 0;  // the most that any layer looks back; 0: some layer looks back to the first token
  MemoryInfo memory;
  std::map<std::string, FileInfo> files;

  // The function called `name`; Error where there is none.
  const FunctionInfo& function(std::string_view name) const;
  const WeightsInfo& weights_of(const TargetInfo& target) const;
};

// Read and check a manifest's text; the Error names the first field that disagrees with the schema.
Manifest parse_manifest(std::string_view text);

// The fields that must agree with each other; Error names the first that does not.
void check_manifest(const Manifest& manifest);

// Bytes of an element of a tensor type that may stand in a manifest, 0 for others.
int64_t item_bytes(std::string_view dtype);

}  // namespace heddle

#endif  // HEDDLE_MANIFEST_H_
