#include "decoder.h"

#include <algorithm>

#include "byte_level.h"
#include "length.h"
#include "pattern.h"
#include "utf8.h"

namespace heddle {

namespace {

class ByteLevel : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) append_from_byte_level(bytes, token);
    tokens = {is_utf8(bytes) ? std::move(bytes) : repaired(bytes)};
  }
};

// Runs of byte tokens become characters; where a run is not UTF-8, each of its bytes becomes U+FFFD.
class ByteFallback : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    auto flush = [&] {
      if (is_utf8(bytes)) {
        if (!bytes.empty()) out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), "\xef\xbf\xbd");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      char byte;
      if (is_byte_token(token, &byte)) {
        bytes += byte;
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(out);
  }
};

class Fuse : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string all;
    for (const std::string& token : tokens) all += token;
    tokens = {std::move(all)};
  }
};

class Strip : public Decoder {
 public:
  explicit Strip(const Rule& rule)
      : start_(rule.field("start").integer(0, INT64_MAX)), stop_(rule.field("stop").integer(0, INT64_MAX)) {
    append_utf8(content_, rule.field("content").character());
  }

  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view text = token;
      size_t start = 0, end = text.size(), size = content_.size();
      for (int64_t i = 0; i < start_ && text.substr(start, size) == content_; ++i) start += size;
      for (int64_t i = 0; i < stop_ && end >= start + size && text.substr(end - size, size) == content_; ++i)
        end -= size;
      token = token.substr(start, end - start);
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class Replace : public Decoder {
 public:
  explicit Replace(const Rule& rule) : pattern_(rule.field("pattern")), content_(rule.field("content").text()) {}

  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string out;
      pattern_.parts(token, [&](size_t start, size_t end, bool match) {
        out += match ? std::string_view(content_) : std::string_view(token).substr(start, end - start);
        check_length(out.size());
      });
      token = std::move(out);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at; !from.empty() && (at = text.find(from, done)) != text.npos; done = at + from.size()) {
    out.append(text, done, at - done).append(to);
  }
  text = out.append(text, done);
}

class Metaspace : public Decoder {
 public:
  explicit Metaspace(const Rule& rule) {
    append_utf8(space_, rule.field("replacement").character());
    auto scheme = rule.optional("prepend_scheme");
    prepended_ = !scheme || scheme->one_of({"always", "first", "never"}) != 2;
    if (auto add = rule.optional("add_prefix_space"); add && !add->flag()) {
      if (scheme && prepended_) add->refuse("true, as prepend_scheme says");
      prepended_ = false;
    }
  }

  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], space_, i == 0 && prepended_ ? "" : " ");
  }

 private:
  std::string space_;
  bool prepended_;
};

class WordPiece : public Decoder {
 public:
  explicit WordPiece(const Rule& rule) : prefix_(rule.field("prefix").text()), cleanup_(rule.field("cleanup").flag()) {}

  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string& token = tokens[i];
      if (i > 0) token = token.compare(0, prefix_.size(), prefix_) == 0 ? token.substr(prefix_.size()) : " " + token;
      if (cleanup_) clean(token);
    }
  }

 private:
  // English as it is written: "do n't ." -> "don't."
  static void clean(std::string& token) {
    static constexpr const char* kPairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                                {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                                {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& pair : kPairs) replace_all(token, pair[0], pair[1]);
  }

  std::string prefix_;
  bool cleanup_;
};

// Ends of words, such as </w>, become spaces.
class BpeDecoder : public Decoder {
 public:
  explicit BpeDecoder(const Rule& rule) : suffix_(rule.field("suffix").text()) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], suffix_, i + 1 < tokens.size() ? " " : "");
  }

 private:
  std::string suffix_;
};

void read_into(const Rule& rule, Decoders& found) {
  auto add = [&](std::unique_ptr<Decoder> step) { found.steps.push_back(std::move(step)); };
  std::string_view type = rule.type();
  if (type == "Sequence") {
    for (const Rule& part : rule.field("decoders").list()) read_into(part, found);
  } else if (type == "ByteLevel") {
    add(std::make_unique<ByteLevel>());
  } else if (type == "ByteFallback") {
    found.byte_tokens = true;
    add(std::make_unique<ByteFallback>());
  } else if (type == "Fuse") {
    add(std::make_unique<Fuse>());
  } else if (type == "Strip") {
    add(std::make_unique<Strip>(rule));
  } else if (type == "Replace") {
    add(std::make_unique<Replace>(rule));
  } else if (type == "Metaspace") {
    add(std::make_unique<Metaspace>(rule));
  } else if (type == "WordPiece") {
    add(std::make_unique<WordPiece>(rule));
  } else if (type == "BPEDecoder") {
    add(std::make_unique<BpeDecoder>(rule));
  } else {
    rule.unknown(
        {"Sequence", "ByteLevel", "ByteFallback", "Fuse", "Strip", "Replace", "Metaspace", "WordPiece", "BPEDecoder"});
  }
}

}  // namespace

std::string Decoders::run(std::vector<std::string> tokens) const {
  for (const auto& step : steps) step->apply(tokens);
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !present) out += ' ';
    out += tokens[i];
  }
  return out;
}

Decoders read_decoders(const std::optional<Rule>& rule) {
  Decoders found;
  found.present = rule.has_value();
  if (rule) read_into(*rule, found);
  return found;
}

bool is_byte_token(std::string_view token, char* byte) {
  auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return false;
  int high = digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return false;
  if (byte) *byte = static_cast<char>(high * 16 + low);
  return true;
}

}  // namespace heddle
