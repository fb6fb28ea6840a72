// Who gets how many tokens in the next step; as runtime/scheduler.py with policy "fcfs".
#ifndef HEDDLE_SCHEDULER_H_
#define HEDDLE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "page_pool.h"
#include "plan_layout.h"
#include "sequence.h"

namespace heddle {

// A sequence's share of a step: the `rows` tokens that follow those computed.
struct Share {
  Sequence* sequence;
  int64_t rows;
};

// Sequences by arrival. Decodes go first, one token each; what is left of a step's tokens goes to chunks of prompts. A
// sequence is let in when there are pages for all that it can become, so none has to be turned out again.
class Scheduler {
 public:
  Scheduler(const PlanLayout& bounds, PagePool* pool) : bounds_(bounds), pool_(pool) {}
  // `sequence` must outlive its `remove`, and fit into an empty pool.
  void add(Sequence* sequence) { waiting_.push_back(sequence); }
  // The next step, never empty while there is work. Those that are let in get their pages.
  std::vector<Share> next();
  // Forget a sequence, and free its pages.
  void remove(Sequence* sequence);
  bool has_work() const { return !running_.empty() || !waiting_.empty(); }

 private:
  PlanLayout bounds_;
  PagePool* pool_;
  std::vector<Sequence*> running_;
  std::deque<Sequence*> waiting_;
};

}  // namespace heddle

#endif  // HEDDLE_SCHEDULER_H_
