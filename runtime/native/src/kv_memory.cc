#include "kv_memory.h"

#include <algorithm>

#include "error.h"
#include "memory_region.h"
#include "text.h"

namespace heddle {

namespace {
constexpr uint64_t kMostPages = uint64_t{1} << 26;  // a slot of the cache is an int32: page * 16 + offset
}

int64_t pool_pages(const Manifest& manifest, uint64_t bytes) {
  const CacheGroup& group = manifest.caches.front();
  const uint64_t record = static_cast<uint64_t>(group.record_bytes);
  if (bytes == 0) {
    const uint64_t context =
        static_cast<uint64_t>((manifest.model.context_length + group.page_tokens - 1) / group.page_tokens);
    const Available available = available_memory();
    const uint64_t needs = static_cast<uint64_t>(manifest.memory.weights_bytes + manifest.memory.workspace_bytes);
    const uint64_t left = available.bytes > needs ? available.bytes - needs : 0;
    bytes = std::min(2 * context * record, left / 2);
  }
  if (bytes < record) {
    throw no_memory("a KV pool of " + size_text(bytes) + " holds no page: one page needs " + size_text(record),
                    "a page holds " + std::to_string(group.page_tokens) + " tokens of all layers",
                    "give more memory for the KV pool, or free some");
  }
  return static_cast<int64_t>(std::min(bytes / record, kMostPages));
}

}  // namespace heddle
