// Text of tokens as they come, and the place where it ends; as runtime/detokenize.py.
#ifndef HEDDLE_TOKENIZER_DETOKENIZE_H_
#define HEDDLE_TOKENIZER_DETOKENIZE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer.h"

namespace heddle {

// Decodes token by token; what may still change is held back: an incomplete last character, and a run of byte tokens.
// The concatenation of all pieces is the decoding of all tokens.
class IncrementalDecoder {
 public:
  // `tokenizer` must outlive this.
  explicit IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special = true);
  // The text that is certain now and was not before.
  std::string push(int32_t token);
  // The text that was still held back, with incomplete characters as U+FFFD.
  std::string finish();

 private:
  std::string release(std::string_view certain);

  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<int32_t> window_;  // one token whose text is out, as context, and those after it
  size_t sent_ = 0;              // characters of the window's text that are out
};

// Passes text on until a stop text is complete, and never lets out a part of one. The stop text that is complete first
// counts (of two that end together, the longer one), so the result does not depend on how the text is cut into pieces.
class StopFilter {
 public:
  // Texts of `stops` must not be empty.
  explicit StopFilter(std::vector<std::string> stops);
  // The text that can go out now. Sets `found`, after which all text is dropped.
  std::string push(std::string_view piece);
  // The text that was held back and turned out to be no stop text.
  std::string finish();
  // The stop text that ended the output.
  const std::optional<std::string>& found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::optional<std::string> found_;
};

// Tokens of one request in, text out: decoding, then stop texts.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stops = {}, bool skip_special = true);
  // The text that can go out now that `token` is there.
  std::string push(int32_t token);
  // The text that was held back; no token follows. It may complete a stop text, which sets `found`.
  std::string finish();
  const std::optional<std::string>& found() const { return filter_.found(); }

 private:
  IncrementalDecoder decoder_;
  StopFilter filter_;
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_DETOKENIZE_H_
