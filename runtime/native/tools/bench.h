// How fast an artifact runs here.
#ifndef HEDDLE_TOOLS_BENCH_H_
#define HEDDLE_TOOLS_BENCH_H_

#include "options.h"

namespace heddle_run {

// For each length of prompt: tokens per second until every sequence has its first token, and of those that follow,
// greedily, with end tokens ignored. Medians over the rounds; one more before them is not counted. Prompts are random
// token ids, others in every round. Failure where a batch does not fit.
void bench(const Options& options);

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_BENCH_H_
