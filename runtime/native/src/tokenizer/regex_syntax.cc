// Oniguruma's syntax of regular expressions in PCRE2's. What both write alike is copied.
#include <algorithm>
#include <vector>

#include "../error.h"
#include "../text.h"
#include "pattern.h"
#include "regex_classes.h"

namespace heddle {

namespace {

constexpr size_t kMostPattern = 1 << 16;
constexpr int kMostSets = 16;  // inside of each other

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& path) : pattern_(pattern), path_(path) {}

  std::string run() {
    if (pattern_.size() > kMostPattern) refuse("more than 64 kB");
    while (at_ < pattern_.size()) item();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw bad_artifact(path_ + " is " + quote(pattern_) + ", a regular expression with " + what,
                       "the native tokenizer has no equal for it", "run this model by the Python runtime");
  }

  char peek(size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  char take() { return at_ < pattern_.size() ? pattern_[at_++] : '\0'; }
  bool accept(std::string_view text) {
    bool there = pattern_.substr(at_, text.size()) == text;
    if (there) at_ += text.size();
    return there;
  }

  void item() {
    char c = peek();
    if (c == '(') {
      open_.push_back(out_.size());
      group();
    } else if (c == ')') {
      out_ += take();
      atom_ = open_.empty() ? out_.size() : open_.back();
      if (!open_.empty()) open_.pop_back();
    } else if (c == '{') {
      interval();
    } else if (c == '*' || c == '+' || c == '?' || c == '|') {
      out_ += take();
    } else {
      atom_ = out_.size();
      if (c == '[') {
        ++at_;
        out_ += set(1);
      } else if (c == '\\') {
        ++at_;
        escape();
      } else {
        // A character of several bytes is one atom.
        do {
          out_ += take();
        } while ((static_cast<unsigned char>(peek()) & 0xc0) == 0x80);
      }
    }
  }

  // The start of a group; of options, Oniguruma's m is PCRE2's s.
  void group() {
    if (accept("(?#")) {  // a comment
      while (at_ < pattern_.size() && take() != ')') {
      }
      open_.pop_back();
      return;
    }
    if (accept("(?~")) refuse("an absent operator");
    if (accept("(*")) refuse("a verb");
    out_ += take();
    if (peek() != '?') return;
    size_t end = pattern_.find_first_not_of("imx-", at_ + 1);
    if (end == pattern_.npos || (pattern_[end] != ':' && pattern_[end] != ')')) return;
    for (; at_ < end; ++at_) out_ += peek() == 'm' ? 's' : peek();
  }

  // {n,m} and what follows it: in Oniguruma {n,m}+ repeats it, and {n}? makes it optional.
  void interval() {
    size_t end = pattern_.find('}', at_);
    std::string_view inside = end == pattern_.npos ? "" : pattern_.substr(at_ + 1, end - at_ - 1);
    bool counts = !inside.empty() && inside != "," && inside.find_first_not_of("0123456789,") == inside.npos &&
                  std::count(inside.begin(), inside.end(), ',') <= 1;
    if (!counts) {  // a brace like any character
      atom_ = out_.size();
      out_ += "\\{", ++at_;
      return;
    }
    out_ += std::string("{") + (inside[0] == ',' ? "0" : "") + std::string(inside) + "}";
    at_ = end + 1;
    if (peek() == '+' || (peek() == '?' && inside.find(',') == inside.npos)) {
      out_.insert(atom_, "(?:");
      out_ += std::string(")") + take();
    }
  }

  // What stands behind a backslash outside of a class.
  void escape() {
    char c = take();
    if (c == 's' || c == 'S') {
      out_ += std::string(c == 's' ? "[" : "[^") + kSpace + "]";
    } else if (c == 'w' || c == 'W') {
      out_ += std::string(c == 'w' ? "[" : "[^") + kWord + kWordNumbers + "]";
    } else if (c == 'h' || c == 'H') {
      out_ += c == 'h' ? "[0-9a-fA-F]" : "[^0-9a-fA-F]";
    } else if (c == 'b' || c == 'B') {
      std::string word = std::string("[") + kWord + kWordNumbers + "]";
      out_ += c == 'b' ? "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))"
                       : "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))";
    } else {
      common(c, out_);
    }
  }

  // An escape that means the same inside of a class and outside.
  void common(char c, std::string& out) {
    if (c == 'p' || c == 'P') {
      property(c, out);
    } else if (c == 'u') {
      std::string_view digits = pattern_.substr(at_, 4);
      if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos)
        refuse("\\u and no four hex digits");
      out += "\\x{" + std::string(digits) + "}";
      at_ += 4;
    } else if (c == '\0') {
      refuse("a backslash at its end");
    } else if (std::string_view("yYOXGKQE").find(c) != std::string_view::npos) {
      refuse(std::string("\\") + c);
    } else {
      out += '\\';
      out += c;
    }
  }

  // \p{Name}: general categories by one or two letters, binary properties, scripts.
  void property(char c, std::string& out) {
    size_t end = pattern_.find('}', at_);
    if (peek() != '{' || end == pattern_.npos) refuse(std::string("\\") + c + " and no {name}");
    std::string name(pattern_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    if (!name.empty() && name[0] == '^') {
      name.erase(0, 1);
      c = c == 'p' ? 'P' : 'p';
    }
    std::string lower;
    for (char letter : name) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
      if (letter != '_' && letter != ' ' && letter != '-') lower += letter;
    }
    auto known = std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.first == lower; });
    if (known != kNames.end()) {
      name = known->second;
    } else if (lower == "space" || lower == "whitespace" || lower == "word" || lower == "punct" || lower == "alnum") {
      refuse("\\p{" + name + "}");
    } else if (name.size() > 2) {
      name = "sc:" + name;  // without it PCRE2 means the scripts that use a character, not its own
    }
    out += std::string("\\") + c + "{" + name + "}";
  }

  // A class behind its [; sets inside of it and && become alternatives and assertions about one character.
  std::string set(int depth) {
    if (depth > kMostSets) refuse("too many classes inside of each other");
    bool negated = accept("^");
    std::vector<std::string> sides;  // of &&
    std::string plain;               // contents that can stand in one class
    std::vector<std::string> inner;  // sets inside of it, each matches one character
    auto side = [&] {
      std::string found = plain.empty() ? "" : "[" + plain + "]";
      for (const std::string& set : inner) found += (found.empty() ? "" : "|") + set;
      if (found.empty()) refuse("an empty class");
      sides.push_back(inner.empty() ? found : "(?:" + found + ")");
      plain.clear(), inner.clear();
    };
    for (bool first = true;; first = false) {
      if (at_ >= pattern_.size()) refuse("a class without an end");
      if (peek() == ']' && !first) break;
      if (accept("&&")) {
        side();
      } else if (peek() == '[' && peek(1) == ':' && pattern_.find(":]", at_) != pattern_.npos) {
        posix(plain, inner);
      } else if (accept("[")) {
        inner.push_back(set(depth + 1));
      } else if (accept("\\")) {
        set_escape(plain, inner);
      } else if (peek() == ']') {
        ++at_;
        plain += "\\]";
      } else if (peek() == '^') {
        ++at_;
        plain += "\\^";
      } else {
        plain += take();
      }
    }
    ++at_;
    if (sides.empty() && inner.empty() && !plain.empty()) return (negated ? "[^" : "[") + plain + "]";
    side();
    std::string found;
    for (size_t i = 0; i + 1 < sides.size(); ++i) found += "(?=" + sides[i] + ")";
    found += sides.back();
    return negated ? "(?:(?!" + found + ")(?s:.))" : "(?:" + found + ")";
  }

  void set_escape(std::string& plain, std::vector<std::string>& inner) {
    char c = take();
    switch (c) {
      case 's':
        plain += kSpace;
        break;
      case 'S':
        plain += kNoSpace;
        break;
      case 'w':
        plain += kWord;
        break;
      case 'W':
        inner.push_back(std::string("[^") + kWord + "]");
        break;
      case 'h':
        plain += "0-9a-fA-F";
        break;
      case 'H':
        inner.push_back("[^0-9a-fA-F]");
        break;
      case 'R':
      case 'N':
        refuse(std::string("\\") + c + " in a class");
      default:
        common(c, plain);
    }
  }

  void posix(std::string& plain, std::vector<std::string>& inner) {
    size_t end = pattern_.find(":]", at_);
    std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
    bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    auto known = std::find_if(kPosix.begin(), kPosix.end(), [&](const auto& entry) { return entry.first == name; });
    if (known == kPosix.end()) refuse("the class [:" + std::string(name) + ":]");
    at_ = end + 2;
    if (negated) {
      inner.push_back(std::string("[^") + known->second + "]");
    } else {
      plain += known->second;
    }
  }

  std::string_view pattern_;
  const std::string& path_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;           // where in `out_` the last thing begins that can be repeated
  std::vector<size_t> open_;  // where the open groups begin
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern, const std::string& path) {
  return Translation(pattern, path).run();
}

}  // namespace heddle
