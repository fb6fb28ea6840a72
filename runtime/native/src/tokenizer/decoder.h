// How the texts of tokens become one text.
#ifndef HEDDLE_TOKENIZER_DECODER_H_
#define HEDDLE_TOKENIZER_DECODER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rule.h"

namespace heddle {

// A step of decoding. Tokens are valid UTF-8 before and after it.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

struct Decoders {
  std::vector<std::unique_ptr<Decoder>> steps;
  bool present = false;      // without any, tokens are joined by spaces
  bool byte_tokens = false;  // whether tokens like <0xE4> are bytes

  std::string run(std::vector<std::string> tokens) const;
};

// The steps of tokenizer.json's `decoder`, in order; a sequence gives its own.
Decoders read_decoders(const std::optional<Rule>& rule);

// Whether this is how a byte is written: <0xE4>. `byte` may be nullptr.
bool is_byte_token(std::string_view token, char* byte);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_DECODER_H_
