#include "scheduler.h"

#include <algorithm>

namespace heddle {

namespace {
constexpr int64_t kChunk = 512;  // tokens of one prompt in a step
}

std::vector<Share> Scheduler::next() {
  std::vector<Share> step;
  int64_t budget = bounds_.max_tokens;
  // The first sequence moves on even if it is still in its prompt and decodes could take the whole budget.
  const int64_t kept = !running_.empty() && !running_.front()->decodes();
  for (Sequence* sequence : running_) {
    if (budget <= kept) break;
    if (!sequence->decodes()) continue;
    step.push_back({sequence, 1});
    --budget;
  }
  auto serve_prompt = [&](Sequence* sequence) {
    const int64_t rows = std::min({sequence->pending(), kChunk, budget});
    if (rows > 0) step.push_back({sequence, rows});
    budget -= rows;
  };
  for (Sequence* sequence : running_) {
    if (!sequence->decodes()) serve_prompt(sequence);
  }
  while (!waiting_.empty() && budget > 0 && static_cast<int64_t>(running_.size()) < bounds_.max_seqs) {
    Sequence* sequence = waiting_.front();
    if (sequence->pages_needed() > pool_->num_free()) break;  // nobody overtakes: so everybody comes to his turn
    sequence->pages = pool_->take(sequence->pages_needed());
    waiting_.pop_front();
    running_.push_back(sequence);
    serve_prompt(sequence);
  }
  return step;
}

void Scheduler::remove(Sequence* sequence) {
  pool_->give_back(sequence->pages);
  sequence->pages.clear();
  running_.erase(std::remove(running_.begin(), running_.end(), sequence), running_.end());
  waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), sequence), waiting_.end());
}

}  // namespace heddle
