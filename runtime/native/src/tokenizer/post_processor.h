// The special tokens around a text.
#ifndef HEDDLE_TOKENIZER_POST_PROCESSOR_H_
#define HEDDLE_TOKENIZER_POST_PROCESSOR_H_

#include <optional>
#include <vector>

#include "rule.h"

namespace heddle {

// What stands where the text was: the text itself, and special tokens.
struct Template {
  struct Part {
    bool text;                 // or
    std::vector<int32_t> ids;  // special tokens
  };
  std::vector<Part> parts;

  std::vector<int32_t> apply(const std::vector<int32_t>& ids, bool add_special) const;
};

// The templates of tokenizer.json's `post_processor`, in the order in which they are applied.
std::vector<Template> read_post_processors(const std::optional<Rule>& rule);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_POST_PROCESSOR_H_
