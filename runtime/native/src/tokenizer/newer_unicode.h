// The characters that Unicode 15 and 16 added, for libraries that know Unicode 14.
//
// `tokenizers` splits texts by Oniguruma and Rust's tables of Unicode 16. PCRE2 and utf8proc of a system may be older,
// and take a new ideogram for no letter. They are shown a character instead that they know, of the same category and
// the same length.
#ifndef HEDDLE_TOKENIZER_NEWER_UNICODE_H_
#define HEDDLE_TOKENIZER_NEWER_UNICODE_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace heddle {

// The character itself, or for a newer one an older one like it.
uint32_t older(uint32_t code);

// The text, with its newer characters replaced in `copy` where it has some. Offsets are the same in both.
std::string_view older(std::string_view text, std::string* copy);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_NEWER_UNICODE_H_
