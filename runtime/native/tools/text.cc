#include "text.h"

#include <charconv>
#include <cmath>
#include <string>

namespace heddle_run {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// The code point that `text` begins with, taken off it; kReplacement for a byte that begins none. `text` is not empty.
char32_t take(std::string_view& text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t size = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  char32_t code = size == 1 ? lead : lead & (0xFF >> (size + 1));
  bool good = size > 0 && size <= text.size();
  for (size_t i = 1; good && i < size; ++i) {
    good = (byte(i) & 0xC0) == 0x80;
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  good = good && code >= kLeast[size] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  text.remove_prefix(good ? size : 1);
  return good ? code : kReplacement;
}

void append(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace

std::string visible(std::string_view text) {
  constexpr char32_t kPictures = 0x2400;  // Unicode's block of them, in the order of the control characters
  std::string shown;
  while (!text.empty()) {
    const char32_t code = take(text);
    if (code == '\r') continue;
    if (code < 0x20 && code != '\n' && code != '\t') {
      append(shown, kPictures + code);
    } else {
      append(shown, code >= 0x7F && code < 0xA0 ? kReplacement : code);
    }
  }
  return shown;
}

std::string quoted(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string json = "\"";
  while (!text.empty()) {
    const char32_t code = take(text);
    if (code == '"' || code == '\\') {
      json += '\\';
      json += static_cast<char>(code);
    } else if (code == '\n') {
      json += "\\n";
    } else if (code < 0x20) {
      json += "\\u00";
      json += kDigits[code >> 4];
      json += kDigits[code & 15];
    } else {
      append(json, code);
    }
  }
  return json + "\"";
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";  // JSON has no others
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof(digits), value).ptr};
}

std::string listed(const std::vector<std::string>& values) {
  std::string json = "[";
  for (const std::string& value : values) json += (json.size() > 1 ? ", " : "") + value;
  return json + "]";
}

std::string listed(const std::vector<int32_t>& values) {
  std::string json = "[";
  for (int32_t value : values) json += (json.size() > 1 ? ", " : "") + std::to_string(value);
  return json + "]";
}

JsonObject& JsonObject::add(std::string_view key, std::string_view value) {
  fields_ += (fields_.empty() ? "" : ", ") + quoted(key) + ": ";
  fields_ += value;
  return *this;
}

}  // namespace heddle_run
