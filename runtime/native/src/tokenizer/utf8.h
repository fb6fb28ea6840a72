// Characters of UTF-8 and their classes in Unicode.
#ifndef HEDDLE_TOKENIZER_UTF8_H_
#define HEDDLE_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace heddle {

struct Character {
  uint32_t code;
  uint32_t size;  // bytes
};

// The character of valid UTF-8 that begins at `at`, which lies inside of the text.
inline Character character_at(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xe0) return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (first < 0xf0) return {(first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}

// Where the character before `at` begins; `at` is not 0.
inline size_t before(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

size_t count_characters(std::string_view text);

void append_utf8(std::string& out, uint32_t code);

bool is_utf8(std::string_view text);

// The bytes as UTF-8: each maximal part of a character that is none becomes one U+FFFD, as Unicode recommends.
std::string repaired(std::string_view bytes);

// Classes of characters, as the Rust standard library and its `regex` package have them.
bool is_space(uint32_t code);        // White_Space
bool is_word(uint32_t code);         // \w: alphabetic, marks, decimal digits, connectors, joiners
bool is_numeric(uint32_t code);      // Nd, Nl, No
bool is_punctuation(uint32_t code);  // P*, and ASCII's symbols
bool is_mark(uint32_t code);         // M*
bool is_nonspacing(uint32_t code);   // Mn
bool is_control(uint32_t code);      // Cc, Cf, Co

// Appends the lower case of a character.
void append_lower(std::string& out, uint32_t code);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_UTF8_H_
