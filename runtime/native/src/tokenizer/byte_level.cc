#include "byte_level.h"

#include <array>
#include <cstdint>

#include "utf8.h"

namespace heddle {

namespace {

constexpr uint32_t kCharacters =
    256 + 68;  // those that stand for themselves lie below 256, the 68 others from there on

struct Alphabet {
  std::array<uint16_t, 256> character{};
  std::array<int16_t, kCharacters> byte{};

  Alphabet() {
    byte.fill(-1);
    uint32_t others = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      uint32_t code = itself ? b : others++;
      character[b] = static_cast<uint16_t>(code);
      byte[code] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet all;
  return all;
}

}  // namespace

std::string to_byte_level(std::string_view text) {
  const Alphabet& all = alphabet();
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (char c : text) append_utf8(out, all.character[static_cast<unsigned char>(c)]);
  return out;
}

void append_from_byte_level(std::string& out, std::string_view text) {
  const Alphabet& all = alphabet();
  size_t size = out.size();
  for (size_t at = 0; at < text.size();) {
    Character found = character_at(text, at);
    if (found.code >= kCharacters || all.byte[found.code] < 0) {
      out.resize(size);
      out += text;
      return;
    }
    out += static_cast<char>(all.byte[found.code]);
    at += found.size;
  }
}

}  // namespace heddle
