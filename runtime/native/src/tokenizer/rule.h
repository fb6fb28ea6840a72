// A part of tokenizer.json and its path: what it must be is checked where it is asked for.
#ifndef HEDDLE_TOKENIZER_RULE_H_
#define HEDDLE_TOKENIZER_RULE_H_

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace heddle {

// It belongs to the parser of the file, which must outlive it. All functions throw Error (bad artifact) where the part
// is something else than what is asked for. Fields that nobody asks for are allowed: other programs read the file too.
class Rule {
 public:
  Rule(simdjson::dom::element value, std::string path) : value_(value), path_(std::move(path)) {}
  const std::string& path() const { return path_; }
  simdjson::dom::element value() const { return value_; }

  // A field of an object; without `optional` it must be there. A null is as good as none.
  Rule field(const char* name) const;
  std::optional<Rule> optional(const char* name) const;

  std::string_view text() const;
  bool flag() const;
  double number() const;
  int64_t integer(int64_t least, int64_t most) const;
  uint32_t character() const;  // a text of one character
  std::vector<Rule> list() const;
  simdjson::dom::object object() const;
  std::string_view type() const { return field("type").text(); }
  // The text as a place in `names`.
  size_t one_of(const std::vector<std::string_view>& names) const;

  [[noreturn]] void refuse(const std::string& must) const;  // "<path> must be <must>, found <value>"
  [[noreturn]] void unknown(const std::vector<std::string_view>& known) const;  // a type that is not known here

 private:
  simdjson::dom::element value_;
  std::string path_;
};

constexpr const char* kCopyAgain = "copy the tokenizer's files again from the model's origin";

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_RULE_H_
