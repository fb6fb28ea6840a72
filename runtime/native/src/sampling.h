// How a request wants its tokens chosen, and what the sampler's kernels are told about it; as runtime/sampling.py and
// runtime/sampler/.
#ifndef HEDDLE_SAMPLING_H_
#define HEDDLE_SAMPLING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "heddle.h"

namespace heddle {

// The parameters of the C API, checked, with texts of their own.
struct SamplingParams {
  int64_t max_tokens = 16;
  int64_t min_tokens = 0;
  double temperature = 1;
  double top_p = 1;
  double min_p = 0;
  double typical_p = 1;
  int64_t top_k = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  uint64_t seed = 0;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  std::vector<std::string> stop;

  bool greedy() const { return temperature == 0 || top_k == 1; }
  // Whether logits of tokens that were there are changed.
  bool penalizes() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

// Read what a caller gave; Error (bad request) names the field that is out of range, with `owner` before it.
SamplingParams read_sampling(const heddle_sampling& given, const std::string& owner);

// What the kernel `sample_tokens` is told about a row, besides the row and its random number.
struct DrawSettings {
  int64_t greedy, top_k, top_p, typical_p;
  float scale, floor;
};
DrawSettings draw_settings(const SamplingParams& params);

// 64 random bits: two rounds of splitmix64 over the seed and the position that the new token will have.
uint64_t random_bits(uint64_t seed, uint64_t position);

}  // namespace heddle

#endif  // HEDDLE_SAMPLING_H_
