#include "text.h"

#include <cstdio>

namespace heddle {

namespace {
constexpr size_t kMost = 200;  // bytes of a quoted text
}

std::string quote(std::string_view text) {
  std::string out = "'";
  for (unsigned char c : text.substr(0, kMost)) {
    if (c >= 0x20 && c != 0x7f) {
      out += static_cast<char>(c);
    } else {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", c);
      out += hex;
    }
  }
  return out + (text.size() > kMost ? "...'" : "'");
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
