// The tokens that are looked for in a text before all else.
#ifndef HEDDLE_TOKENIZER_ADDED_TOKENS_H_
#define HEDDLE_TOKENIZER_ADDED_TOKENS_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "normalizer.h"
#include "rule.h"
#include "trie.h"
#include "vocabulary.h"

namespace heddle {

class AddedTokens {
 public:
  // tokenizer.json's `added_tokens`. A token that the model does not know gets the next free id, in the order of the
  // file.
  AddedTokens(const std::optional<Rule>& rule, const Vocabulary& model, const Normalizers& normalizers);

  // Gives the parts of a text in order: `part(start, end, id)`, with kNone for what is no added token. Looked for are
  // those that stand in the text as it came, or those that stand in its normalized form.
  using Part = std::function<void(size_t, size_t, int32_t)>;
  void find(std::string_view text, bool normalized, const Part& part) const;

  // The token's text in decoding; nullptr for another id.
  const std::string* text(int32_t id) const;
  bool is_special(int32_t id) const;
  // Whether decoding leaves out this text.
  bool is_special(std::string_view text) const { return specials_.count(std::string(text)) > 0; }
  // kNone where there is none.
  int32_t find(std::string_view content) const;

 private:
  struct Token {
    std::string text;  // in decoding, and where it stands in normalized texts
    bool single_word, lstrip, rstrip, normalized, special;
  };

  std::map<int32_t, Token> tokens_;
  std::unordered_map<std::string, int32_t> ids_;  // by content
  std::unordered_set<std::string> specials_;      // contents
  Trie plain_, normalized_;
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_ADDED_TOKENS_H_
