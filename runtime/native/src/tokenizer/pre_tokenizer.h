// How a normalized text is cut into the pieces that the model turns into tokens.
#ifndef HEDDLE_TOKENIZER_PRE_TOKENIZER_H_
#define HEDDLE_TOKENIZER_PRE_TOKENIZER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "rule.h"

namespace heddle {

struct Piece {
  std::string_view text;
  bool at_start;  // of the whole input
};

using PieceSink = std::function<void(Piece)>;

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Gives the pieces of a piece in order, none of them empty; a text is only there during the call.
  virtual void run(Piece piece, const PieceSink& out) const = 0;
};

using PreTokenizers = std::vector<std::unique_ptr<PreTokenizer>>;

// The steps of tokenizer.json's `pre_tokenizer`, in order; a sequence gives its own.
PreTokenizers read_pre_tokenizers(const std::optional<Rule>& rule);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_PRE_TOKENIZER_H_
