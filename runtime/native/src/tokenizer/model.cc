#include "model.h"

#include <cstdio>

#include "../error.h"

namespace heddle {

std::unique_ptr<Model> Model::read(const Rule& rule) {
  std::string_view type = rule.type();
  if (type == "BPE") return read_bpe(rule);
  if (type == "Unigram") return read_unigram(rule);
  if (type == "WordPiece") return read_word_piece(rule);
  if (type == "WordLevel") return read_word_level(rule);
  rule.unknown({"BPE", "Unigram", "WordPiece", "WordLevel"});
}

std::vector<int32_t> Model::byte_tokens() const {
  std::vector<int32_t> ids;
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    ids.push_back(vocabulary().find(name));
  }
  return ids;
}

int32_t Model::need_unknown(int32_t id) const {
  if (id == kNone)
    throw bad_request("the text has characters that the tokenizer does not know", "its model has no unknown token");
  return id;
}

}  // namespace heddle
