// Text to token ids and back, by an artifact's tokenizer.json: the same ids and texts as the Python package
// `tokenizers`.
#ifndef HEDDLE_TOKENIZER_TOKENIZER_H_
#define HEDDLE_TOKENIZER_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace heddle {

// Immutable once loaded: any number of threads may use one.
class Tokenizer {
 public:
  // Read `directory`/tokenizer.json. Error (bad artifact) where it is missing, broken, or has a rule that is not known
  // here.
  static std::unique_ptr<Tokenizer> load(const std::string& directory);
  // From the file's text; `name` stands for the file in errors.
  static std::unique_ptr<Tokenizer> from_json(std::string_view json, const std::string& name);
  ~Tokenizer();

  // Token ids of `text`, framed by the model's special tokens where `add_special` says so. Bytes that are not UTF-8
  // count as U+FFFD, one for each maximal part of a character. Error (bad request) for a text that the file's rules
  // fail on.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;

  // Text of token ids, always UTF-8. Ids that the tokenizer does not know have no text.
  std::string decode(const int32_t* ids, size_t count, bool skip_special = true) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = true) const {
    return decode(ids.data(), ids.size(), skip_special);
  }

  // The id of a token as tokenizer.json spells it, -1 where there is none.
  int32_t token_id(std::string_view token) const;
  // Whether `decode` drops this token: it is special or unknown.
  bool is_silent(int32_t token, bool skip_special = true) const;
  // Whether this is a token like <0xE4>: the text of a run of these is only known when the run ends.
  bool is_byte(int32_t token) const;

 private:
  Tokenizer();
  struct Rules;
  std::unique_ptr<const Rules> rules_;
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_TOKENIZER_H_
