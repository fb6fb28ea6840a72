// Building the plan of a step with the kernel of the artifact; as runtime/plans/build.py.
#ifndef HEDDLE_PLAN_H_
#define HEDDLE_PLAN_H_

#include <cstdint>
#include <vector>

#include "library.h"
#include "plan_layout.h"
#include "tensor.h"

namespace heddle {

// One sequence in a step: its physical pages, the position of its first new row, and its new rows. A row sees the
// sequence up to itself.
struct PlanSequence {
  const std::vector<int32_t>* pages;
  int64_t start;
  int64_t rows;
};

// How a step's attention is divided; no result depends on it.
struct Division {
  int workers = 1;
  int64_t window = 0;
  bool cascade = true;
};

// Builds plans into the same arrays again and again.
class PlanBuilder {
 public:
  // `max_pages` is how many pages a sequence has at most. Error where the library's kernel has another layout.
  PlanBuilder(const PlanLayout& layout, const Library& library, Division division, int64_t max_pages);
  // Plan one step and give the number of its rows. `rows_only` makes every row a task of its own, as the functions with
  // few rows expect. Error where something exceeds the layout.
  int64_t build(const std::vector<PlanSequence>& sequences, bool rows_only);
  // Of the last step.
  Tensor plan() { return plan_.view({used_}); }
  Tensor positions() { return positions_.view({rows_}); }

 private:
  void check_layout();

  PlanLayout layout_;
  Division division_;
  Function fill_;
  int64_t max_pages_, size_;
  int64_t used_ = 0, rows_ = 0;
  Array<int32_t> sequences_, options_, plan_, positions_;
};

}  // namespace heddle

#endif  // HEDDLE_PLAN_H_
