#include "safetensors.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "error.h"
#include "json.h"
#include "text.h"

namespace heddle {

namespace {

constexpr uint64_t kMostHeader = 100 << 20;  // bytes; the limit of the reference implementation
constexpr int64_t kMostBytes = int64_t{1} << 48;
constexpr std::string_view kPadding = "__pad.";

struct Type {
  const char* code;
  const char* name;
  int64_t bytes;
};
constexpr Type kTypes[] = {{"F64", "float64", 8},         {"F32", "float32", 4},
                           {"F16", "float16", 2},         {"BF16", "bfloat16", 2},
                           {"I64", "int64", 8},           {"I32", "int32", 4},
                           {"I16", "int16", 2},           {"I8", "int8", 1},
                           {"U64", "uint64", 8},          {"U32", "uint32", 4},
                           {"U16", "uint16", 2},          {"U8", "uint8", 1},
                           {"BOOL", "bool", 1},           {"F8_E4M3", "float8_e4m3fn", 1},
                           {"F8_E5M2", "float8_e5m2", 1}, {"F8_E8M0", "float8_e8m0fnu", 1}};

const Type& type_of(const Json& value) {
  const std::string code = value.text();
  for (const Type& type : kTypes) {
    if (code == type.code) return type;
  }
  throw bad_artifact(value.path() + " is " + quote(code) + ", which is no type of safetensors", "", kCopyArtifact);
}

TensorEntry read_entry(const Json& value, uint64_t base) {
  Fields fields = value.fields({"dtype", "shape", "data_offsets"});
  const Type& type = type_of(fields["dtype"]);
  TensorEntry entry;
  entry.dtype = type.name;
  int64_t size = type.bytes;
  for (const Json& extent : fields["shape"].list()) {
    entry.shape.push_back(extent.integer(0, kMostBytes));
    const int64_t last = entry.shape.back();
    if (last && size > kMostBytes / last)
      throw bad_artifact(fields["shape"].path() + " is too large", "", kCopyArtifact);
    size *= last;
  }
  const std::vector<Json> offsets = fields["data_offsets"].list();
  if (offsets.size() != 2)
    throw bad_artifact(fields["data_offsets"].path() + " must be two numbers", "", kCopyArtifact);
  const int64_t start = offsets[0].integer(0, kMostBytes), end = offsets[1].integer(0, kMostBytes);
  if (end - start != size) {
    throw bad_artifact(value.path() + ": " + shape_text(entry.dtype, entry.shape) + " does not take " +
                           std::to_string(end - start) + " bytes",
                       "", kCopyArtifact);
  }
  entry.start = base + static_cast<uint64_t>(start);
  entry.bytes = static_cast<uint64_t>(size);
  return entry;
}

// The tensors must fill the file from the header to its end, without gaps or overlaps.
void check_positions(const std::map<std::string, TensorEntry>& entries, uint64_t base, uint64_t size,
                     const std::string& name) {
  std::vector<std::pair<uint64_t, uint64_t>> spans;  // start, bytes: empty tensors come first
  for (const auto& [tensor, entry] : entries) spans.emplace_back(entry.start, entry.bytes);
  std::sort(spans.begin(), spans.end());
  uint64_t position = base;
  for (const auto& [start, bytes] : spans) {
    if (start != position) {
      throw bad_artifact(name + " has a corrupt header",
                         "a tensor starts at " + std::to_string(start) + ", not " + std::to_string(position),
                         kCopyArtifact);
    }
    position += bytes;
  }
  if (position != size) {
    throw bad_artifact(name + " is " + (position > size ? "truncated" : "longer than its header says"),
                       "its tensors end at byte " + std::to_string(position) + ", the file has " + std::to_string(size),
                       kCopyArtifact);
  }
}

}  // namespace

std::map<std::string, TensorEntry> read_safetensors(const uint8_t* data, uint64_t size, const std::string& name) {
  uint64_t length = 0;
  for (uint64_t i = 0; i < 8 && i < size; ++i) length |= uint64_t{data[i]} << (8 * i);
  if (size < 8 || length > kMostHeader) {
    throw bad_artifact(name + " is not a safetensors file",
                       "it is " + std::to_string(size) + " bytes and begins with " + std::to_string(length));
  }
  if (size - 8 < length) {
    throw bad_artifact(
        name + " is truncated",
        "its header alone needs " + std::to_string(8 + length) + " bytes, the file has " + std::to_string(size),
        kCopyArtifact);
  }
  const JsonDocument document({reinterpret_cast<const char*>(data) + 8, length}, "the header of " + name, name);
  std::map<std::string, TensorEntry> entries;
  for (const auto& [tensor, value] : document.root().entries()) {
    if (tensor != "__metadata__") entries[tensor] = read_entry(value, 8 + length);
  }
  check_positions(entries, 8 + length, size, name);
  for (auto at = entries.begin(); at != entries.end();) {
    at = at->first.compare(0, kPadding.size(), kPadding) == 0 ? entries.erase(at) : std::next(at);
  }
  return entries;
}

}  // namespace heddle
