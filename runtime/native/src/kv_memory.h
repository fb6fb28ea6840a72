// How large the pool of KV pages is; as runtime/kv_memory.py.
#ifndef HEDDLE_KV_MEMORY_H_
#define HEDDLE_KV_MEMORY_H_

#include <cstdint>

#include "artifact.h"

namespace heddle {

// Pages of a pool of `bytes`; 0 means two full contexts, or half of the memory that weights (not loaded yet) and
// workspace leave where that is less. Error where not even one page fits.
int64_t pool_pages(const Manifest& manifest, uint64_t bytes);

}  // namespace heddle

#endif  // HEDDLE_KV_MEMORY_H_
