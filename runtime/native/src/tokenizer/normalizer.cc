#include "normalizer.h"

#include <functional>

#include "byte_level.h"
#include "length.h"
#include "pattern.h"
#include "unicode_forms.h"
#include "utf8.h"

namespace heddle {

namespace {

// Each character becomes what `change` appends for it. Where the first one becomes nothing, the text has lost its
// start.
template <typename Change>
void for_characters(NormalText& text, Change&& change) {
  std::string out;
  out.reserve(text.text.size());
  for (size_t at = 0; at < text.text.size();) {
    Character found = character_at(text.text, at);
    change(out, found.code);
    if (at == 0 && out.empty()) text.at_start = false;
    at += found.size;
  }
  text.text = std::move(out);
}

// A step without options.
class Simple : public Normalizer {
 public:
  explicit Simple(void (*apply)(NormalText&)) : apply_(apply) {}
  void apply(NormalText& text) const override { apply_(text); }

 private:
  void (*apply_)(NormalText&);
};

void lowercase(NormalText& text) { for_characters(text, append_lower); }

void strip_accents(NormalText& text) {
  for_characters(text, [](std::string& out, uint32_t code) {
    if (!is_mark(code)) append_utf8(out, code);
  });
}

// The preparation of Google's neural machine translation: control characters go, other spaces become spaces.
void nmt(NormalText& text) {
  for_characters(text, [](std::string& out, uint32_t code) {
    bool dropped = (code >= 0x01 && code <= 0x08) || code == 0x0b || (code >= 0x0e && code <= 0x1f) || code == 0x7f ||
                   code == 0x8f || code == 0x9f;
    bool space = code == 0x09 || code == 0x0a || code == 0x0c || code == 0x0d || code == 0x1680 ||
                 (code >= 0x200b && code <= 0x200f) || code == 0x2028 || code == 0x2029 || code == 0x2581 ||
                 code == 0xfeff || code == 0xfffd;
    if (!dropped) append_utf8(out, space ? ' ' : code);
  });
}

class Strip : public Normalizer {
 public:
  explicit Strip(const Rule& rule) : left_(rule.field("strip_left").flag()), right_(rule.field("strip_right").flag()) {}

  void apply(NormalText& text) const override {
    const std::string& all = text.text;
    size_t start = 0, end = all.size();
    while (left_ && start < end && is_space(character_at(all, start).code)) start += character_at(all, start).size;
    while (right_ && end > start && is_space(character_at(all, before(all, end)).code)) end = before(all, end);
    if (start > 0) text.at_start = false;
    text.text = all.substr(start, end - start);
  }

 private:
  bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(const Rule& rule) : text_(rule.field("prepend").text()) {}
  void apply(NormalText& text) const override {
    if (!text.text.empty()) text.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class Replace : public Normalizer {
 public:
  explicit Replace(const Rule& rule) : pattern_(rule.field("pattern")), content_(rule.field("content").text()) {}

  void apply(NormalText& text) const override {
    std::string out;
    out.reserve(text.text.size());
    std::string_view all = text.text;
    pattern_.parts(all, [&](size_t start, size_t end, bool match) {
      out += match ? std::string_view(content_) : all.substr(start, end - start);
      check_length(out.size());
      // What stands for several characters stands for the last of them.
      if (match && start == 0 && (content_.empty() ? end > 0 : count_characters(all.substr(0, end)) > 1))
        text.at_start = false;
    });
    text.text = std::move(out);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Bert : public Normalizer {
 public:
  explicit Bert(const Rule& rule)
      : clean_(rule.field("clean_text").flag()),
        chinese_(rule.field("handle_chinese_chars").flag()),
        lowercase_(rule.field("lowercase").flag()) {
    auto accents = rule.optional("strip_accents");
    strip_accents_ = accents ? accents->flag() : lowercase_;
  }

  void apply(NormalText& text) const override {
    if (clean_) {
      for_characters(text, [](std::string& out, uint32_t code) {
        bool space = code == '\t' || code == '\n' || code == '\r' || is_space(code);
        bool control = code != '\t' && code != '\n' && code != '\r' && is_control(code);
        if (code != 0 && code != 0xfffd && !control) append_utf8(out, space ? ' ' : code);
      });
    }
    if (chinese_) {
      for_characters(text, [](std::string& out, uint32_t code) {
        bool chinese = is_chinese(code);
        if (chinese) out += ' ';
        append_utf8(out, code);
        if (chinese) out += ' ';
      });
    }
    if (strip_accents_) {
      text.text = unicode_form(text.text, UnicodeForm::kNfd);
      for_characters(text, [](std::string& out, uint32_t code) {
        if (!is_nonspacing(code)) append_utf8(out, code);
      });
    }
    if (lowercase_) lowercase(text);
  }

 private:
  static bool is_chinese(uint32_t code) {
    return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) ||
           (code >= 0x20000 && code <= 0x2a6df) || (code >= 0x2a700 && code <= 0x2b73f) ||
           (code >= 0x2b740 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) ||
           (code >= 0xf900 && code <= 0xfaff) || (code >= 0x2f800 && code <= 0x2fa1f);
  }

  bool clean_, chinese_, lowercase_, strip_accents_;
};

std::unique_ptr<Normalizer> simple(void (*apply)(NormalText&)) { return std::make_unique<Simple>(apply); }

template <UnicodeForm form>
void to_form(NormalText& text) {
  text.text = unicode_form(text.text, form);
}

void bytes_as_characters(NormalText& text) { text.text = to_byte_level(text.text); }

using Read = std::function<std::unique_ptr<Normalizer>(const Rule&)>;

const std::vector<std::pair<std::string_view, Read>>& kinds() {
  static const std::vector<std::pair<std::string_view, Read>> all = {
      {"NFC", [](const Rule&) { return simple(to_form<UnicodeForm::kNfc>); }},
      {"NFD", [](const Rule&) { return simple(to_form<UnicodeForm::kNfd>); }},
      {"NFKC", [](const Rule&) { return simple(to_form<UnicodeForm::kNfkc>); }},
      {"NFKD", [](const Rule&) { return simple(to_form<UnicodeForm::kNfkd>); }},
      {"Lowercase", [](const Rule&) { return simple(lowercase); }},
      {"StripAccents", [](const Rule&) { return simple(strip_accents); }},
      {"Nmt", [](const Rule&) { return simple(nmt); }},
      {"ByteLevel", [](const Rule&) { return simple(bytes_as_characters); }},
      {"Strip", [](const Rule& rule) { return std::make_unique<Strip>(rule); }},
      {"Prepend", [](const Rule& rule) { return std::make_unique<Prepend>(rule); }},
      {"Replace", [](const Rule& rule) { return std::make_unique<Replace>(rule); }},
      {"BertNormalizer", [](const Rule& rule) { return std::make_unique<Bert>(rule); }},
      {"Precompiled", read_precompiled},
  };
  return all;
}

void read_into(const Rule& rule, Normalizers& steps) {
  if (rule.type() == "Sequence") {
    for (const Rule& part : rule.field("normalizers").list()) read_into(part, steps);
    return;
  }
  std::vector<std::string_view> names = {"Sequence"};
  for (const auto& [name, read] : kinds()) {
    if (rule.type() == name) return steps.push_back(read(rule));
    names.push_back(name);
  }
  rule.unknown(names);
}

}  // namespace

Normalizers read_normalizers(const std::optional<Rule>& rule) {
  Normalizers steps;
  if (rule) read_into(*rule, steps);
  return steps;
}

}  // namespace heddle
