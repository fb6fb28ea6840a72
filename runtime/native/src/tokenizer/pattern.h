// Regular expressions of tokenizer.json: Oniguruma's syntax and way of finding matches, on PCRE2.
#ifndef HEDDLE_TOKENIZER_PATTERN_H_
#define HEDDLE_TOKENIZER_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "newer_unicode.h"
#include "rule.h"

// PCRE2's header needs a macro set before it; it is included in one place, pattern.cc.
struct pcre2_real_code_8;

namespace heddle {

class Regex {
 public:
  // `pattern` in Oniguruma's syntax; `path` names it in errors. Error (bad artifact) where it cannot be used.
  Regex(std::string_view pattern, const std::string& path);

  // The first match in `text` at or behind `from`; false for none. Error (bad request) where that would take too long.
  bool search(std::string_view text, size_t from, size_t* start, size_t* end) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::string path_;
};

// The pattern as PCRE2 has to be told. Error (bad artifact) for what has no equivalent.
std::string pcre2_pattern(std::string_view pattern, const std::string& path);

// What a rule's `pattern` finds: {"String": ...} or {"Regex": ...}.
class Pattern {
 public:
  explicit Pattern(const Rule& rule);
  // For a pattern that is known here.
  Pattern(std::string_view regex, const std::string& path) : regex_(std::make_unique<Regex>(regex, path)) {}

  // All of the text in order: matches, and what lies between them (only matches may be empty).
  // `part(start, end, is_match)` for each; one empty part for an empty text.
  template <typename Part>
  void parts(std::string_view text, Part&& part) const;

 private:
  bool search(std::string_view text, size_t from, size_t* start, size_t* end) const;

  std::string literal_;
  std::unique_ptr<Regex> regex_;  // where it is no literal
};

template <typename Part>
void Pattern::parts(std::string_view text, Part&& part) const {
  if (text.empty()) return part(size_t{0}, size_t{0}, false);
  std::string copy;
  if (regex_) text = older(text, &copy);
  size_t done = 0, from = 0, start, end;
  bool first = true;
  while (from <= text.size() && search(text, from, &start, &end)) {
    if (start == end && !first && end == done) {  // an empty match right behind a match does not count
      do {
        ++from;
      } while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80);
      continue;
    }
    if (done != start) part(done, start, false);
    part(start, end, true);
    done = from = end;
    first = false;
  }
  if (done != text.size()) part(done, text.size(), false);
}

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_PATTERN_H_
