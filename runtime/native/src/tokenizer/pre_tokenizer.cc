#include "pre_tokenizer.h"

#include <string>

#include "../error.h"
#include "byte_level.h"
#include "pattern.h"
#include "splitter.h"
#include "utf8.h"

namespace heddle {

namespace {

// They run inside of each other, and the stack has an end; known tokenizers have up to four.
constexpr size_t kMostSteps = 64;

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class Split : public PreTokenizer {
 public:
  explicit Split(const Rule& rule)
      : pattern_(rule.field("pattern")),
        behavior_(read_behavior(rule.field("behavior"))),
        invert_(rule.field("invert").flag()) {}
  Split(Pattern pattern, Behavior behavior) : pattern_(std::move(pattern)), behavior_(behavior), invert_(false) {}

  void run(Piece piece, const PieceSink& out) const override {
    Splitter splitter(piece, behavior_, out);
    pattern_.parts(piece.text,
                   [&](size_t start, size_t end, bool match) { splitter.part(start, end, match != invert_); });
    splitter.flush();
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(const Rule& rule) : prefix_(rule.field("add_prefix_space").flag()) {
    auto use = rule.optional("use_regex");
    if (!use || use->flag()) split_ = std::make_unique<Split>(Pattern(kGpt2, rule.path()), Behavior::kIsolated);
  }

  void run(Piece piece, const PieceSink& out) const override {
    std::string prefixed;
    if (prefix_ && piece.text.substr(0, 1) != " ") {
      prefixed = " " + std::string(piece.text);
      piece.text = prefixed;
    }
    auto map = [&](Piece part) {
      std::string text = to_byte_level(part.text);
      out({text, part.at_start});
    };
    if (split_) {
      split_->run(piece, map);
    } else {
      map(piece);
    }
  }

 private:
  bool prefix_;
  std::unique_ptr<Split> split_;
};

class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(const Rule& rule) {
    append_utf8(space_, rule.field("replacement").character());
    auto scheme = rule.optional("prepend_scheme");
    scheme_ = scheme ? static_cast<Scheme>(scheme->one_of({"always", "first", "never"})) : kAlways;
    if (auto add = rule.optional("add_prefix_space"); add && !add->flag()) {
      if (scheme && scheme_ != kNever) add->refuse("true, as prepend_scheme says");
      scheme_ = kNever;
    }
    if (auto split = rule.optional("split")) split_ = split->flag();
  }

  void run(Piece piece, const PieceSink& out) const override {
    std::string text;
    text.reserve(piece.text.size() + space_.size());
    for (char c : piece.text) {
      if (c == ' ') {
        text += space_;
      } else {
        text += c;
      }
    }
    bool there = text.compare(0, space_.size(), space_) == 0;
    if (!there && (scheme_ == kAlways || (scheme_ == kFirst && piece.at_start))) text.insert(0, space_);
    piece.text = text;
    if (!split_) return out(piece);
    uint32_t space = character_at(space_, 0).code;
    split_characters(
        piece, Behavior::kMergedWithNext, [&](uint32_t code) { return code == space; }, out);
  }

 private:
  enum Scheme { kAlways, kFirst, kNever };
  std::string space_;
  Scheme scheme_;
  bool split_ = true;
};

// Cuts by classes of characters.
class Classes : public PreTokenizer {
 public:
  Classes(std::function<bool(uint32_t)> matches, Behavior behavior)
      : matches_(std::move(matches)), behavior_(behavior) {}
  void run(Piece piece, const PieceSink& out) const override { split_characters(piece, behavior_, matches_, out); }

 private:
  std::function<bool(uint32_t)> matches_;
  Behavior behavior_;
};

// Runs of word characters, and runs of what is neither those nor spaces.
class Whitespace : public PreTokenizer {
 public:
  void run(Piece piece, const PieceSink& out) const override {
    size_t start = 0;
    int kind = kSpace;
    auto flush = [&](size_t end) {
      if (kind != kSpace && start < end) out({piece.text.substr(start, end - start), piece.at_start && start == 0});
    };
    for (size_t at = 0; at < piece.text.size();) {
      Character found = character_at(piece.text, at);
      int next = is_word(found.code) ? kWord : is_space(found.code) ? kSpace : kOther;
      if (next != kind) flush(at), start = at, kind = next;
      at += found.size;
    }
    flush(piece.text.size());
  }

 private:
  enum Kind { kSpace, kWord, kOther };
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(const Rule& rule) {
    if (auto length = rule.optional("length")) length_ = length->integer(1, INT64_MAX);
  }

  void run(Piece piece, const PieceSink& out) const override {
    size_t start = 0;
    int64_t count = 0;
    for (size_t at = 0; at < piece.text.size();) {
      at += character_at(piece.text, at).size;
      if (++count < length_ && at < piece.text.size()) continue;
      out({piece.text.substr(start, at - start), piece.at_start && start == 0});
      start = at, count = 0;
    }
  }

 private:
  int64_t length_ = 5;
};

void read_into(const Rule& rule, PreTokenizers& steps) {
  auto classes = [&](std::function<bool(uint32_t)> matches, Behavior behavior) {
    steps.push_back(std::make_unique<Classes>(std::move(matches), behavior));
  };
  std::string_view type = rule.type();
  if (type == "Sequence") {
    for (const Rule& part : rule.field("pretokenizers").list()) read_into(part, steps);
  } else if (type == "Split") {
    steps.push_back(std::make_unique<Split>(rule));
  } else if (type == "ByteLevel") {
    steps.push_back(std::make_unique<ByteLevel>(rule));
  } else if (type == "Metaspace") {
    steps.push_back(std::make_unique<Metaspace>(rule));
  } else if (type == "Digits") {
    classes(is_numeric, rule.field("individual_digits").flag() ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Punctuation") {
    auto behavior = rule.optional("behavior");
    classes(is_punctuation, behavior ? read_behavior(*behavior) : Behavior::kIsolated);
  } else if (type == "Whitespace") {
    steps.push_back(std::make_unique<Whitespace>());
  } else if (type == "WhitespaceSplit") {
    classes(is_space, Behavior::kRemoved);
  } else if (type == "BertPreTokenizer") {
    classes(is_space, Behavior::kRemoved);
    classes(is_punctuation, Behavior::kIsolated);
  } else if (type == "CharDelimiterSplit") {
    uint32_t delimiter = rule.field("delimiter").character();
    classes([delimiter](uint32_t code) { return code == delimiter; }, Behavior::kRemoved);
  } else if (type == "FixedLength") {
    steps.push_back(std::make_unique<FixedLength>(rule));
  } else {
    rule.unknown({"Sequence", "Split", "ByteLevel", "Metaspace", "Digits", "Punctuation", "Whitespace",
                  "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit", "FixedLength"});
  }
}

}  // namespace

Behavior read_behavior(const Rule& rule) {
  return static_cast<Behavior>(
      rule.one_of({"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}));
}

PreTokenizers read_pre_tokenizers(const std::optional<Rule>& rule) {
  PreTokenizers steps;
  if (rule) read_into(*rule, steps);
  if (steps.size() > kMostSteps) rule->refuse("at most " + std::to_string(kMostSteps) + " steps");
  return steps;
}

}  // namespace heddle
