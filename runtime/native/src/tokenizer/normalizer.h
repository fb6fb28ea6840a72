// What is done to a text before it is cut into pieces.
#ifndef HEDDLE_TOKENIZER_NORMALIZER_H_
#define HEDDLE_TOKENIZER_NORMALIZER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rule.h"

namespace heddle {

struct NormalText {
  std::string text;
  // Whether the first character stands for the first one of the whole input; some spaces are put there alone.
  bool at_start;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(NormalText& text) const = 0;
};

using Normalizers = std::vector<std::unique_ptr<Normalizer>>;

// The steps of tokenizer.json's `normalizer`, in order; a sequence gives its own.
Normalizers read_normalizers(const std::optional<Rule>& rule);

// SentencePiece's table of replacements (`Precompiled`).
std::unique_ptr<Normalizer> read_precompiled(const Rule& rule);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_NORMALIZER_H_
