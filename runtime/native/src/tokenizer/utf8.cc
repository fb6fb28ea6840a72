#include "utf8.h"

#include <simdjson.h>
#include <utf8proc.h>

#include <algorithm>

#include "newer_unicode.h"

namespace heddle {

namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

utf8proc_category_t category(uint32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(older(code))); }

bool between(int value, int first, int last) { return first <= value && value <= last; }

// Length of the valid character at `at`, or 0 and in `bad` the length of the part of one that stands there.
size_t valid_length(std::string_view text, size_t at, size_t* bad) {
  auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  unsigned first = byte(0);
  if (first < 0x80) return 1;
  size_t size = between(first, 0xc2, 0xdf) ? 2 : between(first, 0xe0, 0xef) ? 3 : between(first, 0xf0, 0xf4) ? 4 : 0;
  // The second byte's bounds exclude overlong forms, surrogates, and what lies behind U+10FFFF.
  unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  *bad = 1;
  if (size == 0 || byte(1) < least || byte(1) > most) return 0;
  for (*bad = 2; *bad < size; ++*bad) {
    if ((byte(*bad) & 0xc0) != 0x80) return 0;
  }
  return size;
}

}  // namespace

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void append_utf8(std::string& out, uint32_t code) {
  auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  }
}

bool is_utf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::string repaired(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    size_t bad = 0;
    size_t size = valid_length(bytes, at, &bad);
    out += size ? bytes.substr(at, size) : kReplacement;
    at += size ? size : bad;
  }
  return out;
}

bool is_space(uint32_t code) {
  if (code < 0x80) return code == ' ' || between(static_cast<int>(code), '\t', '\r');
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool is_word(uint32_t code) {
  if (code == 0x200c || code == 0x200d) return true;
  // Other_Alphabetic beside marks: letters in circles and squares.
  if ((code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
      (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189)) {
    return true;
  }
  utf8proc_category_t found = category(code);
  return between(found, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) || found == UTF8PROC_CATEGORY_PC;
}

bool is_numeric(uint32_t code) { return between(category(code), UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO); }

bool is_punctuation(uint32_t code) {
  if (code < 0x80) {
    return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') || (code >= '[' && code <= '`') ||
           (code >= '{' && code <= '~');
  }
  return between(category(code), UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO);
}

bool is_mark(uint32_t code) { return between(category(code), UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME); }

bool is_nonspacing(uint32_t code) { return category(code) == UTF8PROC_CATEGORY_MN; }

bool is_control(uint32_t code) {
  utf8proc_category_t found = category(code);
  return found == UTF8PROC_CATEGORY_CC || found == UTF8PROC_CATEGORY_CF || found == UTF8PROC_CATEGORY_CO;
}

void append_lower(std::string& out, uint32_t code) {
  if (code == 0x130) {  // the only letter whose lower case is two characters
    out += "i\xcc\x87";
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
  }
}

}  // namespace heddle
