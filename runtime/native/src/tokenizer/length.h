// How long a text may be, and may become: rules of a damaged or hostile tokenizer.json can double it again and again.
#ifndef HEDDLE_TOKENIZER_LENGTH_H_
#define HEDDLE_TOKENIZER_LENGTH_H_

#include <cstddef>

#include "../error.h"
#include "../text.h"

namespace heddle {

constexpr size_t kMostText = size_t{1} << 28;  // bytes; far beyond any context, and places in a text fit into 32 bits

// Error (bad request) for a longer text.
inline void check_length(size_t bytes) {
  if (bytes <= kMostText) return;
  throw bad_request("a text of " + size_text(bytes) + " is too long for the tokenizer",
                    "it takes up to " + size_text(kMostText) + ", as it comes and as its rules change it",
                    "give a shorter text");
}

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_LENGTH_H_
