#include "added_tokens.h"

#include <algorithm>

#include "utf8.h"

namespace heddle {

AddedTokens::AddedTokens(const std::optional<Rule>& rule, const Vocabulary& model, const Normalizers& normalizers) {
  int32_t next = static_cast<int32_t>(model.size());
  for (const Rule& item : rule ? rule->list() : std::vector<Rule>()) {
    item.field("id").integer(0, kMostIds - 1);  // as written; what counts is the vocabulary
    std::string content(item.field("content").text());
    Token token{content,
                item.field("single_word").flag(),
                item.field("lstrip").flag(),
                item.field("rstrip").flag(),
                item.field("normalized").flag(),
                item.field("special").flag()};
    if (content.empty()) continue;
    int32_t id = find(content);
    if (id == kNone) id = model.find(content);
    if (id == kNone) id = next++;
    if (token.normalized) {
      NormalText text{content, true};
      for (const auto& step : normalizers) step->apply(text);
      token.text = text.text;
    }
    if (token.special) specials_.insert(content);
    ids_[content] = id;
    tokens_[id] = std::move(token);
  }
  // Of tokens that look alike when normalized the one with the least id is found.
  for (auto item = tokens_.rbegin(); item != tokens_.rend(); ++item) {
    const Token& token = item->second;
    if (!token.text.empty()) (token.normalized ? normalized_ : plain_).add(token.text, item->first);
  }
}

void AddedTokens::find(std::string_view text, bool normalized, const Part& part) const {
  const Trie& trie = normalized ? normalized_ : plain_;
  size_t done = 0, spaces_end = 0;
  for (size_t at = 0; at < text.size();) {
    // Of the tokens that begin here the longest.
    int32_t id = kNone;
    size_t end = at;
    uint32_t node = Trie::kRoot;
    for (size_t i = at; i < text.size() && trie.step(&node, text[i]); ++i) {
      if (trie.number(node) != kNone) id = trie.number(node), end = i + 1;
    }
    if (id == kNone) {
      ++at;
      continue;
    }
    size_t start = at;
    at = end;
    const Token& token = tokens_.at(id);
    auto word_at = [&](size_t place) { return is_word(character_at(text, place).code); };
    if (token.single_word && ((start > 0 && word_at(before(text, start))) || (end < text.size() && word_at(end))))
      continue;
    if (token.lstrip) {
      // Not into what is out already, where tokens of spaces would be walked over again and again.
      while (start > done && is_space(character_at(text, before(text, start)).code)) start = before(text, start);
      start = std::max(start, done);
    }
    if (token.rstrip) {
      // Up to `spaces_end` there are spaces alone where a token before has looked: a run of them is walked over once.
      spaces_end = std::max(spaces_end, end);
      while (spaces_end < text.size() && is_space(character_at(text, spaces_end).code)) {
        spaces_end += character_at(text, spaces_end).size;
      }
      end = spaces_end;
    }
    if (start >= end) continue;  // spaces that the token before has taken
    if (done < start) part(done, start, kNone);
    part(start, end, id);
    done = end;
  }
  if (done != text.size()) part(done, text.size(), kNone);
}

const std::string* AddedTokens::text(int32_t id) const {
  auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.text;
}

bool AddedTokens::is_special(int32_t id) const {
  auto found = tokens_.find(id);
  return found != tokens_.end() && found->second.special;
}

int32_t AddedTokens::find(std::string_view content) const {
  auto found = ids_.find(std::string(content));
  return found == ids_.end() ? kNone : found->second;
}

}  // namespace heddle
