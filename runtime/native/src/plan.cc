#include "plan.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace heddle {

PlanBuilder::PlanBuilder(const PlanLayout& layout, const Library& library, Division division, int64_t max_pages)
    : layout_(layout),
      division_(division),
      fill_(library.kernel("plan")),
      max_pages_(max_pages),
      size_(layout.size(layout.max_seqs * (max_pages + 1))) {
  if (size_ > INT32_MAX) {
    throw bad_artifact("a plan of " + std::to_string(layout.max_seqs) + " sequences with " + std::to_string(max_pages) +
                           " pages each has " + std::to_string(size_) + " elements",
                       "kernels count them in 32 bits", "compile again with a smaller max_seqs");
  }
  division_.workers = std::clamp(division.workers, 1, kMaxWorkers);
  sequences_.reserve(static_cast<size_t>(layout.max_seqs * kSequenceFields));
  options_.reserve(kOptions);
  positions_.reserve(static_cast<size_t>(layout.max_tokens));
  check_layout();  // before the memory that wrong bounds would ask for
  plan_.reserve(static_cast<size_t>(size_));
}

// Plans a step of one row on an unlikely page, into a vector that is large enough for any layout of these bounds, and
// looks whether everything is where it should be: kernels that look elsewhere would write to pages that do not exist.
void PlanBuilder::check_layout() {
  constexpr int32_t kStart = 5, kThisPage = 12345;
  PlanLayout largest = layout_;
  largest.tile_rows = 1;
  largest.tree_words = kMostTreeWords;
  const int64_t size = largest.size(1);
  Array<int32_t> plan;
  plan.reserve(static_cast<size_t>(size));
  const auto offsets = layout_.offsets();
  const auto at = [&](size_t array) -> int32_t& { return plan.data()[offsets[array]]; };
  at(kPagesArray) = kThisPage;
  const int32_t sequence[kSequenceFields] = {kStart, 1, 1, 1}, options[kOptions] = {1, 1, 1, 0, 0};
  std::copy_n(sequence, kSequenceFields, sequences_.data());
  std::copy_n(options, kOptions, options_.data());
  fill_(sequences_.view({layout_.max_seqs, kSequenceFields}), options_.view({kOptions}), plan.view({size}),
        positions_.view({layout_.max_tokens}));
  const bool agrees = at(kSlotArray) == kThisPage * kPage + kStart && at(kLimitArray) == kStart &&
                      (&at(kPageIndptrArray))[1] == 1 && at(kPagesArray) == kThisPage && positions_.data()[0] == kStart;
  if (!agrees) {
    throw bad_artifact("manifest.plan is not what the kernels were compiled for", "manifest and library disagree",
                       "compile again");
  }
}

int64_t PlanBuilder::build(const std::vector<PlanSequence>& sequences, bool rows_only) {
  int64_t rows = 0, pages = 0;
  for (const PlanSequence& sequence : sequences) {
    const int64_t held = static_cast<int64_t>(sequence.pages->size());
    if (sequence.rows < 1 || sequence.start < 0 || held > max_pages_ + 1 ||
        held * kPage < sequence.start + sequence.rows) {
      throw failed("a sequence has " + std::to_string(sequence.rows) + " new rows from position " +
                   std::to_string(sequence.start) + " and " + std::to_string(held) + " pages, which cannot be");
    }
    rows += sequence.rows;
    pages += held;
  }
  const int64_t count = static_cast<int64_t>(sequences.size());
  if (count > layout_.max_seqs || rows > layout_.max_tokens) {
    throw failed(std::to_string(rows) + " rows of " + std::to_string(count) +
                 " sequences in one step, the plan has room for " + std::to_string(layout_.max_tokens) + " of " +
                 std::to_string(layout_.max_seqs));
  }
  int32_t* field = sequences_.data();
  int32_t* table = plan_.data() + layout_.pages();
  for (const PlanSequence& sequence : sequences) {
    *field++ = static_cast<int32_t>(sequence.start);
    *field++ = static_cast<int32_t>(sequence.rows);
    *field++ = 1;  // causal
    *field++ = static_cast<int32_t>(sequence.pages->size());
    table = std::copy(sequence.pages->begin(), sequence.pages->end(), table);
  }
  const int32_t options[kOptions] = {static_cast<int32_t>(count), rows_only, division_.workers,
                                     static_cast<int32_t>(division_.window), division_.cascade && !rows_only};
  std::copy_n(options, kOptions, options_.data());
  fill_(sequences_.view({layout_.max_seqs, kSequenceFields}), options_.view({kOptions}), plan_.view({size_}),
        positions_.view({layout_.max_tokens}));
  used_ = layout_.size(pages);
  rows_ = rows;
  return rows;
}

}  // namespace heddle
