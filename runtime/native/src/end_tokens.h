// The tokens that end a text.
#ifndef HEDDLE_END_TOKENS_H_
#define HEDDLE_END_TOKENS_H_

#include <cstdint>
#include <vector>

#include "artifact.h"
#include "tokenizer.h"

namespace heddle {

// The manifest's end tokens, or where it names none the tokenizer's.
std::vector<int32_t> end_tokens(const Artifact& artifact, const Tokenizer* tokenizer);

}  // namespace heddle

#endif  // HEDDLE_END_TOKENS_H_
