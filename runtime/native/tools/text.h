// Texts as a terminal may show them, and as JSON.
#ifndef HEDDLE_TOOLS_TEXT_H_
#define HEDDLE_TOOLS_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heddle_run {

// `text` without what would move a cursor, set a title, or worse: control characters become pictures of them.
std::string visible(std::string_view text);

// A JSON string. Bytes that are not UTF-8 become U+FFFD.
std::string quoted(std::string_view text);

// A JSON number: as short as it can be and still the same.
std::string number(double value);

// A JSON list of values that are JSON already.
std::string listed(const std::vector<std::string>& values);
std::string listed(const std::vector<int32_t>& values);

// A JSON object, field by field; values are JSON already.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, std::string_view value);
  std::string text() const { return "{" + fields_ + "}"; }

 private:
  std::string fields_;
};

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_TEXT_H_
