// SentencePiece's table of replacements: a double-array trie of texts, and what each becomes.
#include <utf8proc.h>

#include <optional>

#include "../error.h"
#include "length.h"
#include "normalizer.h"
#include "utf8.h"

namespace heddle {

namespace {

std::string from_base64(const Rule& rule) {
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  std::string_view text = rule.text();
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+'             ? 62
                : c == '/'             ? 63
                                       : -1;
    if (value < 0) throw bad_artifact(rule.path() + " is not Base64", "", kCopyAgain);
    bits = bits << 6 | static_cast<uint32_t>(value);
    if ((count += 6) >= 8) out += static_cast<char>(bits >> (count -= 8) & 0xff);
  }
  return out;
}

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(const Rule& rule) {
    std::string all = from_base64(rule);
    auto number = [&](size_t at) {
      uint32_t value = 0;
      for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(all[at + i]);
      return value;
    };
    size_t size = all.size() < 4 ? all.size() : number(0);
    if (all.size() < 4 || size > all.size() - 4 || size % 4 != 0) {
      throw bad_artifact(rule.path() + " is truncated", "its trie does not fit", kCopyAgain);
    }
    for (size_t at = 4; at < 4 + size; at += 4) units_.push_back(number(at));
    texts_ = all.substr(4 + size);
    if (!is_utf8(texts_)) throw bad_artifact(rule.path() + " replaces by texts that are not UTF-8", "", kCopyAgain);
  }

  void apply(NormalText& text) const override {
    std::string out;
    out.reserve(text.text.size());
    std::string_view all = text.text;
    for (size_t at = 0; at < all.size();) {
      size_t end = cluster_end(all, at);
      std::string_view cluster = all.substr(at, end - at);
      // Short clusters as a whole, as `tokenizers` does; longer ones by character.
      if (auto found = cluster.size() < kWhole ? replacement(cluster) : std::nullopt) {
        out += *found;
      } else {
        for (size_t i = 0; i < cluster.size(); i += character_at(cluster, i).size) {
          std::string_view character = cluster.substr(i, character_at(cluster, i).size);
          out += replacement(character).value_or(character);
        }
      }
      check_length(out.size());
      at = end;
    }
    text.text = std::move(out);
  }

 private:
  static constexpr size_t kWhole = 6;

  // Where the user-perceived character (extended grapheme cluster) that begins at `at` ends.
  static size_t cluster_end(std::string_view text, size_t at) {
    Character last = character_at(text, at);
    utf8proc_int32_t state = 0;
    for (at += last.size; at < text.size();) {
      Character next = character_at(text, at);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(last.code),
                                           static_cast<utf8proc_int32_t>(next.code), &state)) {
        break;
      }
      last = next;
      at += next.size;
    }
    return at;
  }

  // What stands for the shortest text of the table with which `text` begins.
  std::optional<std::string_view> replacement(std::string_view text) const {
    size_t node = units_.empty() ? 0 : offset(units_[0]);
    for (char c : text) {
      auto byte = static_cast<unsigned char>(c);
      node ^= byte;
      if (byte == 0 || node >= units_.size()) return std::nullopt;
      uint32_t unit = units_[node];
      if ((unit & 0x800000ff) != byte) return std::nullopt;
      node ^= offset(unit);
      if (unit >> 8 & 1) return node < units_.size() ? replacement_at(units_[node] & 0x7fffffff) : std::nullopt;
    }
    return std::nullopt;
  }

  static size_t offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & 0x200) >> 6); }

  std::optional<std::string_view> replacement_at(size_t start) const {
    if (start > texts_.size()) return std::nullopt;
    std::string_view found = std::string_view(texts_).substr(start, texts_.find('\0', start) - start);
    bool inside =
        !found.empty() && (static_cast<unsigned char>(found[0]) & 0xc0) == 0x80;  // of a character: a damaged table
    return inside ? std::nullopt : std::optional(found);
  }

  std::vector<uint32_t> units_;
  std::string texts_;
};

}  // namespace

std::unique_ptr<Normalizer> read_precompiled(const Rule& rule) {
  return std::make_unique<Precompiled>(rule.field("precompiled_charsmap"));
}

}  // namespace heddle
