// The part of a tokenizer that turns a piece of text into tokens.
#ifndef HEDDLE_TOKENIZER_MODEL_H_
#define HEDDLE_TOKENIZER_MODEL_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "rule.h"
#include "vocabulary.h"

namespace heddle {

class Model {
 public:
  // By tokenizer.json's `model`: BPE, Unigram, WordPiece or WordLevel.
  static std::unique_ptr<Model> read(const Rule& rule);
  virtual ~Model() = default;

  // Appends the tokens of a piece that is not empty.
  virtual void tokenize(std::string_view piece, std::vector<int32_t>& ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  // Ids of the tokens <0x00> to <0xFF>, kNone where they are not there.
  std::vector<int32_t> byte_tokens() const;
  // The id of an unknown token that the model needs now; Error (bad request) where it has none.
  int32_t need_unknown(int32_t id) const;

 private:
  Vocabulary vocabulary_;
};

std::unique_ptr<Model> read_bpe(const Rule& rule);
std::unique_ptr<Model> read_unigram(const Rule& rule);
std::unique_ptr<Model> read_word_piece(const Rule& rule);
std::unique_ptr<Model> read_word_level(const Rule& rule);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_MODEL_H_
