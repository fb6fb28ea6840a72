// Byte pair encoding: the characters of a piece, merged pair by pair in the order of the merges' ranks.
#include <algorithm>
#include <optional>
#include <queue>
#include <string>

#include "../error.h"
#include "../text.h"
#include "flat_map.h"
#include "model.h"
#include "utf8.h"

namespace heddle {

namespace {

struct Merge {
  uint32_t rank = 0;
  int32_t id = 0;  // of the merged token
};

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A token of the piece; those that were merged into the one before them are dead.
struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;
};
constexpr int32_t kDead = -2;

struct Candidate {
  uint32_t rank;
  int32_t position;
  int32_t id;
  // Of a priority queue the largest comes first: the lowest rank, and of those the leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

class Bpe : public Model {
 public:
  explicit Bpe(const Rule& rule) : Model(Vocabulary(rule.field("vocab"))) {
    if (auto dropout = rule.optional("dropout"); dropout && dropout->number() != 0) {
      throw bad_artifact(dropout->path() + " asks for random merges", "the same text would give different tokens",
                         kCopyAgain);
    }
    if (auto prefix = rule.optional("continuing_subword_prefix")) prefix_ = prefix->text();
    if (auto suffix = rule.optional("end_of_word_suffix")) suffix_ = suffix->text();
    if (auto fuse = rule.optional("fuse_unk")) fuse_unknown_ = fuse->flag();
    if (auto ignore = rule.optional("ignore_merges")) ignore_merges_ = ignore->flag();
    if (auto fallback = rule.optional("byte_fallback"); fallback && fallback->flag()) bytes_ = byte_tokens();
    if (auto unknown = rule.optional("unk_token")) {
      has_unknown_ = true;
      unknown_ = vocabulary().find(unknown->text());
    }
    for (uint32_t code = 0; code < kShort; ++code) {
      std::string text;
      append_utf8(text, code);
      short_ids_.push_back(vocabulary().find(text));
    }
    read_merges(rule.field("merges"));
  }

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    if (ignore_merges_) {
      if (int32_t id = vocabulary().find(piece); id != kNone) return ids.push_back(id);
    }
    std::vector<int32_t> start;
    start.reserve(piece.size());
    characters(piece, start);
    merge(start, ids);
  }

 private:
  static constexpr uint32_t kShort = 0x800;  // characters of at most two bytes: all that byte-level tokens are made of

  void read_merges(const Rule& rule) {
    simdjson::dom::array merges;
    if (rule.value().get_array().get(merges)) rule.refuse("a list");
    merges_.reserve(merges.size());
    std::string merged;
    uint32_t rank = 0;
    for (simdjson::dom::element item : merges) {
      std::string_view left, right;
      if (!split(item, &left, &right)) {
        throw bad_artifact(rule.path() + "[" + std::to_string(rank) + "] must be two tokens", "", kCopyAgain);
      }
      if (left.empty() && right.empty()) continue;  // a comment
      merged.assign(left);
      if (right.size() >= prefix_.size()) merged += right.substr(prefix_.size());
      int32_t left_id = vocabulary().find(left), right_id = vocabulary().find(right), id = vocabulary().find(merged);
      if (left_id == kNone || right_id == kNone || id == kNone || right.size() < prefix_.size()) {
        throw bad_artifact(
            rule.path() + "[" + std::to_string(rank) + "] merges " + quote(left) + " and " + quote(right),
            "the vocabulary lacks one of them, or what they become", kCopyAgain);
      }
      merges_[pair_key(left_id, right_id)] = {rank++, id};
    }
  }

  // A merge is ["a", "b"] or "a b"; a text that begins with #version is a comment, given as two empty tokens.
  static bool split(simdjson::dom::element item, std::string_view* left, std::string_view* right) {
    std::string_view both;
    if (!item.get_string().get(both)) {
      if (both.substr(0, 8) == "#version") return true;
      size_t space = both.find(' ');
      if (space == both.npos || both.find(' ', space + 1) != both.npos) return false;
      *left = both.substr(0, space), *right = both.substr(space + 1);
      return true;
    }
    simdjson::dom::array two;
    return !item.get_array().get(two) && two.size() == 2 && !two.at(0).get_string().get(*left) &&
           !two.at(1).get_string().get(*right);
  }

  int32_t character_id(std::string_view character, uint32_t code, bool first, bool last) const {
    bool plain = (first || prefix_.empty()) && (!last || suffix_.empty());
    if (plain) return code < kShort ? short_ids_[code] : vocabulary().find(character);
    std::string text = (first ? "" : prefix_) + std::string(character) + (last ? suffix_ : "");
    return vocabulary().find(text);
  }

  // The tokens of the piece's characters: their own, those of their bytes, or the unknown one.
  void characters(std::string_view piece, std::vector<int32_t>& ids) const {
    std::optional<int32_t> unknown;  // not out yet: those that follow may be fused with it
    for (size_t at = 0, next; at < piece.size(); at = next) {
      Character found = character_at(piece, at);
      next = at + found.size;
      bool first = at == 0, last = next == piece.size();
      int32_t id = character_id(piece.substr(at, found.size), found.code, first, last);
      if (id != kNone) {
        if (unknown) ids.push_back(*unknown);
        unknown.reset();
        ids.push_back(id);
      } else if (!byte_ids(piece.substr(at, found.size), first, last, ids) && has_unknown_) {
        if (unknown && !fuse_unknown_) ids.push_back(*unknown);
        unknown = need_unknown(unknown_);
      }
    }
    if (unknown) ids.push_back(*unknown);
  }

  // Appends the tokens of the bytes, if all of them are there.
  bool byte_ids(std::string_view character, bool first, bool last, std::vector<int32_t>& ids) const {
    if (bytes_.empty()) return false;
    std::string text = (first ? "" : prefix_) + std::string(character) + (last ? suffix_ : "");
    auto id = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
    if (!std::all_of(text.begin(), text.end(), [&](char c) { return id(c) != kNone; })) return false;
    for (char c : text) ids.push_back(id(c));
    return true;
  }

  // Merges neighbours in the order of rank, those of one rank from left to right: n log n for n symbols.
  void merge(const std::vector<int32_t>& start, std::vector<int32_t>& ids) const {
    int32_t count = static_cast<int32_t>(start.size());
    std::vector<Symbol> symbols(start.size());
    std::vector<Candidate> begin;
    for (int32_t i = 0; i < count; ++i) symbols[i] = {start[i], i - 1, i + 1 < count ? i + 1 : kNone};
    for (int32_t i = 0; i + 1 < count; ++i) {
      const Merge* merge = merges_.find(pair_key(start[i], start[i + 1]));
      if (merge) begin.push_back({merge->rank, i, merge->id});
    }
    std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(begin));
    auto offer = [&](int32_t left, int32_t right) {
      if (left == kNone || right == kNone) return;
      const Merge* merge = merges_.find(pair_key(symbols[left].id, symbols[right].id));
      if (merge) queue.push({merge->rank, left, merge->id});
    };
    while (!queue.empty()) {
      Candidate top = queue.top();
      queue.pop();
      Symbol& left = symbols[top.position];
      if (left.id == kDead || left.next == kNone) continue;
      Symbol& right = symbols[left.next];
      const Merge* merge = merges_.find(pair_key(left.id, right.id));
      if (!merge || merge->id != top.id) continue;  // one of them has become something else
      left.id = top.id;
      right.id = kDead;
      left.next = right.next;
      if (left.next != kNone) symbols[left.next].previous = top.position;
      offer(left.previous, top.position);
      offer(top.position, left.next);
    }
    for (const Symbol& symbol : symbols) {
      if (symbol.id != kDead) ids.push_back(symbol.id);
    }
  }

  std::string prefix_, suffix_;  // of characters inside of a word, and of the last one
  bool fuse_unknown_ = false, ignore_merges_ = false, has_unknown_ = false;
  int32_t unknown_ = kNone;
  std::vector<int32_t> bytes_;      // empty without byte fallback
  std::vector<int32_t> short_ids_;  // by code
  FlatMap<Merge> merges_;
};

}  // namespace

std::unique_ptr<Model> read_bpe(const Rule& rule) { return std::make_unique<Bpe>(rule); }

}  // namespace heddle
