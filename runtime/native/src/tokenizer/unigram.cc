// Unigram language model: of all ways to cut a piece into tokens, the one with the largest sum of scores.
#include <algorithm>
#include <limits>
#include <string>

#include "../error.h"
#include "model.h"
#include "trie.h"
#include "utf8.h"

namespace heddle {

namespace {

constexpr double kUnknownPenalty = 10;  // below the least score, as SentencePiece has it

struct Entries {
  Vocabulary vocabulary;
  std::vector<double> scores;  // by id
  double least = std::numeric_limits<double>::infinity();
};

Entries read_entries(const Rule& rule) {
  simdjson::dom::array list;
  if (rule.value().get_array().get(list)) rule.refuse("a list");
  Entries found;
  found.vocabulary.reserve(list.size());
  for (simdjson::dom::element item : list) {
    simdjson::dom::array two;
    std::string_view token;
    double score;
    int32_t id = static_cast<int32_t>(found.scores.size());
    if (id == kMostIds || item.get_array().get(two) || two.size() != 2 || two.at(0).get_string().get(token) ||
        two.at(1).get_double().get(score)) {
      throw bad_artifact(rule.path() + "[" + std::to_string(id) + "] must be a token and its score", "", kCopyAgain);
    }
    found.vocabulary.add(token, id);
    found.scores.push_back(score);
    found.least = std::min(found.least, score);
  }
  return found;
}

class Unigram : public Model {
 public:
  Unigram(const Rule& rule, Entries entries)
      : Model(std::move(entries.vocabulary)), scores_(std::move(entries.scores)) {
    unknown_score_ = entries.least - kUnknownPenalty;
    if (auto unknown = rule.optional("unk_id")) {
      unknown_ = static_cast<int32_t>(unknown->integer(0, static_cast<int64_t>(scores_.size()) - 1));
    }
    if (auto fallback = rule.optional("byte_fallback"); fallback && fallback->flag()) bytes_ = byte_tokens();
    size_t total = 0;
    for (int32_t id = 0; id < vocabulary().ids(); ++id) total += vocabulary().token(id).size();
    trie_.reserve(total / 2);
    for (int32_t id = 0; id < vocabulary().ids(); ++id) {
      if (vocabulary().find(vocabulary().token(id)) == id) trie_.add(vocabulary().token(id), id);
    }
  }

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    std::vector<Step> best = best_steps(piece);
    // From the end to the start; unknown characters that follow each other are one unknown text.
    std::vector<std::string_view> parts;
    bool fusing = false;
    for (size_t end = piece.size(); end > 0; end = best[end].start) {
      const Step& step = best[end];
      std::string_view part = piece.substr(step.start, end - step.start);
      bool unknown = step.id == unknown_;
      if (fusing && unknown) {
        parts.back() = piece.substr(step.start, part.size() + parts.back().size());
      } else {
        parts.push_back(part);
      }
      fusing = unknown;
    }
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) append(*part, ids);
  }

 private:
  struct Step {
    double score = 0;         // of the best way to here
    uint32_t start = kNever;  // of its last token
    int32_t id = 0;
  };
  static constexpr uint32_t kNever = ~uint32_t{0};

  // By place in the piece, the best token that ends there.
  std::vector<Step> best_steps(std::string_view piece) const {
    std::vector<Step> best(piece.size() + 1);
    for (size_t start = 0; start < piece.size();) {
      size_t size = character_at(piece, start).size;
      bool single = false;
      uint32_t node = Trie::kRoot;
      for (size_t end = start; end < piece.size() && trie_.step(&node, piece[end]);) {
        ++end;
        int32_t id = trie_.number(node);
        if (id == kNone) continue;
        improve(best, start, end, scores_[id], id);
        single = single || end - start == size;
      }
      if (!single) improve(best, start, start + size, unknown_score_, kNone);
      start += size;
    }
    return best;
  }

  // `id` kNone: the unknown token
  void improve(std::vector<Step>& best, size_t start, size_t end, double score, int32_t id) const {
    double sum = score + best[start].score;
    if (best[end].start != kNever && !(sum > best[end].score)) return;
    best[end] = {sum, static_cast<uint32_t>(start), id == kNone ? need_unknown(unknown_) : id};
  }

  void append(std::string_view part, std::vector<int32_t>& ids) const {
    int32_t id = vocabulary().find(part);
    auto byte = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
    if (id != kNone) {
      ids.push_back(id);
    } else if (!bytes_.empty() && std::all_of(part.begin(), part.end(), [&](char c) { return byte(c) != kNone; })) {
      for (char c : part) ids.push_back(byte(c));
    } else {
      ids.push_back(need_unknown(unknown_));
    }
  }

  std::vector<double> scores_;
  double unknown_score_;
  int32_t unknown_ = kNone;
  std::vector<int32_t> bytes_;  // empty without byte fallback
  Trie trie_;
};

}  // namespace

std::unique_ptr<Model> read_unigram(const Rule& rule) {
  return std::make_unique<Unigram>(rule, read_entries(rule.field("vocab")));
}

}  // namespace heddle
