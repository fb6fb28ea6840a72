#include "unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "../error.h"
#include "utf8.h"

namespace heddle {

namespace {

// `tokenizers` has tables of an older Unicode: these have no decomposition there, and marks of them no order.
constexpr uint32_t kUnknown[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0x1abf, 0x1ace},
    {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},   {0x10781, 0x107ba},
    {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x1145e, 0x1145e}, {0x11938, 0x11938}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

bool is_unknown(uint32_t code) {
  return code >= kUnknown[0][0] &&
         std::any_of(std::begin(kUnknown), std::end(kUnknown),
                     [code](const uint32_t(&range)[2]) { return range[0] <= code && code <= range[1]; });
}

bool ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

// Appends the form of a short text.
void append_form(std::string& out, std::string_view text, utf8proc_option_t options) {
  std::vector<utf8proc_int32_t> codes;
  for (size_t at = 0; at < text.size();) {
    Character found = character_at(text, at);
    utf8proc_int32_t parts[32];  // no character has more: U+FDFA has 18
    int boundary = 0;
    utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(found.code), parts, 32, options, &boundary);
    if (count < 0 || count > 32) throw failed("a character has no normal form");
    codes.insert(codes.end(), parts, parts + count);
    at += found.size;
  }
  // Marks in the order of their classes, equal ones as they are. utf8proc would sort them in quadratic time.
  auto mark_class = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  for (size_t i = 0; i < codes.size();) {
    size_t end = i;
    while (end < codes.size() && mark_class(codes[end]) > 0) ++end;
    std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(i), codes.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return mark_class(a) < mark_class(b); });
    i = end + 1;
  }
  utf8proc_ssize_t count = utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options);
  if (count < 0) throw failed("a text has no normal form");
  for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(out, static_cast<uint32_t>(codes[i]));
}

}  // namespace

std::string unicode_form(std::string_view text, UnicodeForm form) {
  bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  int options =
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0);
  std::string out;
  out.reserve(text.size());
  // ASCII is its own form, and only the last character of a run of it can take part in what follows.
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && ascii(text[end])) ++end;
    bool more = end < text.size();
    size_t plain = more && end > at ? end - 1 : end;
    out += text.substr(at, plain - at);
    while (end < text.size() && !ascii(text[end]) && !is_unknown(character_at(text, end).code)) {
      end += character_at(text, end).size;
    }
    if (more) append_form(out, text.substr(plain, end - plain), static_cast<utf8proc_option_t>(options));
    at = end;
    for (; at < text.size() && is_unknown(character_at(text, at).code); at += character_at(text, at).size) {
      out += text.substr(at, character_at(text, at).size);
    }
  }
  return out;
}

}  // namespace heddle
