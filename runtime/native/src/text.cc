#include "text.h"

#include <cstdio>

namespace heddle {

namespace {
constexpr size_t kMost = 200;  // bytes of a quoted text
}

std::string quote(std::string_view text) {
  const std::string_view shown = start_of(text, kMost);
  std::string out = "'";
  for (size_t at = 0; at < shown.size(); ++at) {
    unsigned char c = static_cast<unsigned char>(shown[at]);
    // U+0080 to U+009F are control characters too: terminals take U+009B for an escape.
    const unsigned char next = at + 1 < shown.size() ? static_cast<unsigned char>(shown[at + 1]) : 0;
    const bool high = c == 0xc2 && next >= 0x80 && next < 0xa0;
    if (high) c = next, ++at;
    if (c >= 0x20 && c != 0x7f && !high) {
      out += static_cast<char>(c);
    } else {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", c);
      out += hex;
    }
  }
  return out + (shown.size() < text.size() ? "...'" : "'");
}

std::string_view start_of(std::string_view text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;
  return text.substr(0, most);
}

std::string joined(const std::vector<std::string>& texts, const char* between) {
  std::string out;
  for (const std::string& text : texts) {
    if (!out.empty()) out += between;
    out += text;
  }
  return out;
}

std::string size_text(uint64_t bytes) {
  char text[48];
  if (bytes >= 1000000000) {
    std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
  } else if (bytes < 100000) {
    std::snprintf(text, sizeof text, "%.1f kB", static_cast<double>(bytes) / 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  }
  return text;
}

std::string shape_text(const std::string& dtype, const std::vector<int64_t>& shape) {
  std::vector<std::string> extents;
  for (int64_t extent : shape) extents.push_back(std::to_string(extent));
  return dtype + "[" + joined(extents) + "]";
}

}  // namespace heddle
