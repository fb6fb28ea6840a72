// Words by their longest tokens from left to right (WordPiece), and words that are tokens or unknown (WordLevel).
#include <string>

#include "model.h"
#include "trie.h"
#include "utf8.h"

namespace heddle {

namespace {

class WordPiece : public Model {
 public:
  explicit WordPiece(const Rule& rule)
      : Model(Vocabulary(rule.field("vocab"))),
        unknown_(vocabulary().find(rule.field("unk_token").text())),
        prefix_(rule.field("continuing_subword_prefix").text()),
        most_(static_cast<size_t>(rule.field("max_input_chars_per_word").integer(0, INT64_MAX))) {
    for (int32_t id = 0; id < vocabulary().ids(); ++id) {
      if (vocabulary().has(id) && vocabulary().find(vocabulary().token(id)) == id)
        trie_.add(vocabulary().token(id), id);
    }
  }

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    size_t before = ids.size();
    bool known = count_characters(piece) <= most_;
    for (size_t at = 0; known && at < piece.size();) {
      size_t size = 0;
      int32_t id = longest(at == 0 ? "" : prefix_, piece.substr(at), &size);
      known = id != kNone;
      if (known) ids.push_back(id);
      at += size;
    }
    if (known) return;
    ids.resize(before);
    ids.push_back(need_unknown(unknown_));
  }

 private:
  // The longest token of the prefix and at least a part of the text, and how much of it.
  int32_t longest(std::string_view prefix, std::string_view text, size_t* size) const {
    uint32_t node = Trie::kRoot;
    for (char c : prefix) {
      if (!trie_.step(&node, c)) return kNone;
    }
    int32_t found = kNone;
    for (size_t at = 0; at < text.size() && trie_.step(&node, text[at]); ++at) {
      if (trie_.number(node) != kNone) found = trie_.number(node), *size = at + 1;
    }
    return found;
  }

  int32_t unknown_;
  std::string prefix_;
  size_t most_;  // characters of a word; a longer one is unknown
  Trie trie_;
};

class WordLevel : public Model {
 public:
  explicit WordLevel(const Rule& rule)
      : Model(Vocabulary(rule.field("vocab"))), unknown_(vocabulary().find(rule.field("unk_token").text())) {}

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    int32_t id = vocabulary().find(piece);
    ids.push_back(id == kNone ? need_unknown(unknown_) : id);
  }

 private:
  int32_t unknown_;
};

}  // namespace

std::unique_ptr<Model> read_word_piece(const Rule& rule) { return std::make_unique<WordPiece>(rule); }
std::unique_ptr<Model> read_word_level(const Rule& rule) { return std::make_unique<WordLevel>(rule); }

}  // namespace heddle
