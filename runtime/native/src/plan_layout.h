// Where everything stands in the plan, the one int32 vector that tells the kernels of a step what to do; as
// runtime/plans/layout.py, which says what the arrays mean.
#ifndef HEDDLE_PLAN_LAYOUT_H_
#define HEDDLE_PLAN_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace heddle {

constexpr int64_t kPage = 16;  // tokens in a page of the KV cache
constexpr int kMaxWorkers = 256;
constexpr int kSequenceFields = 4;  // start, new rows, causal, pages
constexpr int kOptions = 5;         // count, rows only, workers, window, cascade
constexpr int64_t kMostTreeWords = 64;

// Where some arrays stand in PlanLayout::kArrays.
constexpr size_t kSlotArray = 0, kLimitArray = 2, kPageIndptrArray = 11, kPagesArray = 12;

// The bounds of a step, and the arrays' offsets that follow from them (in int32 elements).
struct PlanLayout {
  int64_t max_tokens = 1;
  int64_t max_seqs = 1;
  int64_t kv_heads = 1;
  int64_t tile_rows = 1;
  int64_t tree_words = 0;

  static constexpr std::array<const char*, 13> kArrays = {"slot",     "row_seq",     "limit", "state",    "row_item",
                                                          "tile_row", "tile",        "merge", "row_work", "tile_work",
                                                          "tree",     "page_indptr", "pages"};
  // Offsets of the arrays, in the order of kArrays.
  std::array<int64_t, 13> offsets() const;
  int64_t pages() const { return offsets()[kPagesArray]; }
  // Length of a plan vector with room for `count` page table entries in all.
  int64_t size(int64_t count) const { return pages() + count; }
};

}  // namespace heddle

#endif  // HEDDLE_PLAN_LAYOUT_H_
