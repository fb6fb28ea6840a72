// Texts in messages for people.
#ifndef HEDDLE_TEXT_H_
#define HEDDLE_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heddle {

// The text in single quotes, without the control characters that a terminal would obey, and not much of a long one.
std::string quote(std::string_view text);

// As many whole characters of UTF-8 as `most` bytes hold.
std::string_view start_of(std::string_view text, size_t most);

// "a, b, c"
std::string joined(const std::vector<std::string>& texts, const char* between = ", ");

// Bytes for people: "1.50 GB", "12.0 MB", "32.8 kB".
std::string size_text(uint64_t bytes);

// "float16[128, 32]"
std::string shape_text(const std::string& dtype, const std::vector<int64_t>& shape);

}  // namespace heddle

#endif  // HEDDLE_TEXT_H_
