// One sequence on its way from prompt to end: its tokens, its pages, and how far it is; as runtime/request.py.
#ifndef HEDDLE_SEQUENCE_H_
#define HEDDLE_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "detokenize.h"
#include "plan_layout.h"
#include "sampling.h"

namespace heddle {

constexpr int64_t pages_for(int64_t tokens) { return (tokens + kPage - 1) / kPage; }

// The keys and values of the first `computed` of its `tokens` are in the cache, in `pages`; the others are pending.
struct Sequence {
  size_t index = 0;  // which prompt
  SamplingParams params;
  std::vector<int32_t> tokens;
  int64_t num_prompt = 0;
  int64_t max_length = 0;  // tokens of the finished sequence at most
  int64_t computed = 0;
  std::vector<int32_t> pages;
  std::vector<int32_t> end_ids;
  std::optional<Detokenizer> texts;  // none where the artifact has no tokenizer

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return num_tokens() - computed; }
  bool decodes() const { return computed >= num_prompt; }
  // All the pages that it will ever need: the last generated token is never fed back.
  int64_t pages_needed() const { return pages_for(max_length - 1); }
  bool ends_with(int32_t token) const;
  // Whether it must not end yet.
  bool held_open() const { return !end_ids.empty() && num_tokens() - num_prompt < params.min_tokens; }
  bool needs_edits() const { return params.penalizes() || held_open(); }
};

}  // namespace heddle

#endif  // HEDDLE_SEQUENCE_H_
