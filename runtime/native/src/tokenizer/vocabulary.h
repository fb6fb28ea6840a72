// Tokens by text and by id.
#ifndef HEDDLE_TOKENIZER_VOCABULARY_H_
#define HEDDLE_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rule.h"

namespace heddle {

// An id beyond this is no token's: it keeps a damaged file from asking for more memory than there is.
constexpr int64_t kMostIds = int64_t{1} << 24;
constexpr int32_t kNone = -1;

// A hash table with open addressing over one block of text: a vocabulary of 150 000 is there in a few milliseconds.
class Vocabulary {
 public:
  Vocabulary() = default;
  // `rule` is an object of ids by token.
  explicit Vocabulary(const Rule& rule);

  // Room for so many tokens.
  void reserve(size_t count);
  // Of equal tokens the last id counts, and of equal ids the last token.
  void add(std::string_view token, int32_t id);
  // kNone where there is none.
  int32_t find(std::string_view token) const;
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[id] != kNone; }
  // `has(id)`
  std::string_view token(int32_t id) const { return text(entries_[by_id_[id]]); }
  // Different tokens.
  size_t size() const { return entries_.size(); }
  // One more than the largest id.
  int32_t ids() const { return static_cast<int32_t>(by_id_.size()); }

 private:
  struct Entry {
    uint32_t offset, size;
    int32_t id;
  };
  // A part of the hash stands beside the entry, so that a wrong entry is passed without a look at its text.
  struct Slot {
    uint32_t hash;
    int32_t entry;
  };
  std::string_view text(const Entry& entry) const { return std::string_view(texts_).substr(entry.offset, entry.size); }
  static uint32_t hash(std::string_view token);
  size_t place(std::string_view token, uint32_t hash) const;  // where it is, or would be

  std::string texts_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;     // entries by hash; a power of two of them
  std::vector<int32_t> by_id_;  // entries by id
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_VOCABULARY_H_
