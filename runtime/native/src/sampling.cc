#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "error.h"
#include "utf8.h"

namespace heddle {

namespace {

constexpr int64_t kUnit = int64_t{1} << 62;  // the whole sum of probabilities

class Checker {
 public:
  explicit Checker(const std::string& owner) : owner_(owner) {}

  // A finite number in [least, most].
  double real(const char* name, double value, double least, double most, const char* allowed) const {
    if (std::isfinite(value) && value >= least && value <= most) return value;
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    throw bad_request(owner_ + "." + name + " is " + text + "; allowed is " + allowed);
  }
  int64_t integer(const char* name, int64_t value, int64_t least, const char* allowed) const {
    if (value >= least) return value;
    throw bad_request(owner_ + "." + name + " is " + std::to_string(value) + "; allowed is " + allowed);
  }

 private:
  const std::string& owner_;
};

int64_t part_of_unit(double p) { return p >= 1 ? kUnit : static_cast<int64_t>(p * static_cast<double>(kUnit)); }

uint64_t splitmix(uint64_t state) {
  uint64_t z = state + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

SamplingParams read_sampling(const heddle_sampling& given, const std::string& owner) {
  const Checker check(owner);
  constexpr double kLargest = std::numeric_limits<double>::max();
  constexpr double kOverZero = std::numeric_limits<double>::denorm_min();
  SamplingParams params;
  params.max_tokens = check.integer("max_tokens", given.max_tokens, 1, "1 or more");
  params.min_tokens = check.integer("min_tokens", given.min_tokens, 0, "0 or more");
  params.temperature = check.real("temperature", given.temperature, 0, kLargest, "0 (greedy) or more");
  params.top_p = check.real("top_p", given.top_p, kOverZero, 1, "over 0 and at most 1");
  params.min_p = check.real("min_p", given.min_p, 0, 1, "0 to 1");
  params.typical_p = check.real("typical_p", given.typical_p, kOverZero, 1, "over 0 and at most 1");
  params.top_k = check.integer("top_k", given.top_k, -1, "-1 or 0 (all tokens), or 1 or more");
  params.repetition_penalty = check.real("repetition_penalty", given.repetition_penalty, 0.001, 1000, "0.001 to 1000");
  params.presence_penalty = check.real("presence_penalty", given.presence_penalty, -2, 2, "-2 to 2");
  params.frequency_penalty = check.real("frequency_penalty", given.frequency_penalty, -2, 2, "-2 to 2");
  params.seed = given.seed;
  params.ignore_eos = given.ignore_eos != 0;
  params.skip_special_tokens = given.skip_special_tokens != 0;
  if (given.num_stop && !given.stop) throw bad_request(owner + ".stop is NULL, num_stop is not 0");
  for (size_t i = 0; i < given.num_stop; ++i) {
    if (!given.stop[i] || !*given.stop[i]) throw bad_request(owner + ".stop has an empty text");
    // Another one could be found in the middle of a character.
    if (!is_utf8(given.stop[i])) throw bad_request(owner + ".stop has a text that is not UTF-8");
    params.stop.emplace_back(given.stop[i]);
  }
  if (params.min_tokens > params.max_tokens) {
    throw bad_request(owner + " asks for at least min_tokens=" + std::to_string(params.min_tokens) +
                      " and at most max_tokens=" + std::to_string(params.max_tokens));
  }
  return params;
}

DrawSettings draw_settings(const SamplingParams& params) {
  // Temperatures beyond float32 act as the nearest that it has; so no difference of -inf becomes NaN.
  constexpr double kTiny = std::numeric_limits<float>::min(), kHuge = std::numeric_limits<float>::max();
  DrawSettings settings;
  settings.greedy = params.greedy();
  settings.top_k = std::max<int64_t>(0, params.top_k);
  settings.top_p = part_of_unit(params.top_p);
  settings.typical_p = part_of_unit(params.typical_p);
  settings.scale = static_cast<float>(std::min(std::max(1 / std::max(params.temperature, 1 / kHuge), kTiny), kHuge));
  settings.floor =
      params.min_p > 0 ? static_cast<float>(std::log(params.min_p)) : -std::numeric_limits<float>::infinity();
  return settings;
}

uint64_t random_bits(uint64_t seed, uint64_t position) { return splitmix(splitmix(seed) ^ position); }

}  // namespace heddle
