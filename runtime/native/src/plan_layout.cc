#include "plan_layout.h"

namespace heddle {

namespace {

constexpr int64_t kHeader = 16;
constexpr int64_t kItemFields = 3;
constexpr int64_t kTileFields = 4;

int64_t round_up(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

std::array<int64_t, 13> PlanLayout::offsets() const {
  const int64_t max_states = 64 + 8 * max_seqs;
  const int64_t max_tiles = 2 * (max_tokens / tile_rows + max_seqs);
  const int64_t tree_fields = tree_words ? 1 + tree_words : 0;
  const std::array<int64_t, 12> sizes = {
      max_tokens,                               // slot
      max_tokens,                               // row_seq
      max_tokens,                               // limit
      max_tokens,                               // state
      (max_tokens + max_states) * kItemFields,  // row_item
      2 * max_tokens,                           // tile_row
      max_tiles * kTileFields,                  // tile
      max_tokens,                               // merge
      kMaxWorkers + 1,                          // row_work
      kMaxWorkers + 1,                          // tile_work
      max_tokens * tree_fields,                 // tree
      max_seqs + 1,                             // page_indptr
  };
  std::array<int64_t, 13> at{kHeader};
  for (size_t i = 0; i < sizes.size(); ++i) at[i + 1] = at[i] + round_up(sizes[i]);
  return at;
}

}  // namespace heddle
