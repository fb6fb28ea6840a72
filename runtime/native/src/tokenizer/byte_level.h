// GPT-2's alphabet: every byte as a character that can be seen.
#ifndef HEDDLE_TOKENIZER_BYTE_LEVEL_H_
#define HEDDLE_TOKENIZER_BYTE_LEVEL_H_

#include <string>
#include <string_view>

namespace heddle {

// The bytes of the text, each as its character.
std::string to_byte_level(std::string_view text);

// Appends the bytes that the characters stand for; where one is not of the alphabet, the bytes of the text itself.
void append_from_byte_level(std::string& out, std::string_view text);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_BYTE_LEVEL_H_
