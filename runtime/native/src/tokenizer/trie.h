// Texts by prefix.
#ifndef HEDDLE_TOKENIZER_TRIE_H_
#define HEDDLE_TOKENIZER_TRIE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "flat_map.h"

namespace heddle {

// Each text has a number; of equal texts the last one's counts. A node is a place in `numbers_`; its children stand in
// a hash table by node and byte.
class Trie {
 public:
  static constexpr uint32_t kRoot = 0;

  void reserve(size_t nodes) { numbers_.reserve(nodes), children_.reserve(nodes); }

  void add(std::string_view text, int32_t number) {
    uint32_t node = kRoot;
    for (char c : text) {
      uint32_t& child = children_[key(node, c)];
      if (child == 0) {
        child = static_cast<uint32_t>(numbers_.size());
        numbers_.push_back(-1);
      }
      node = child;
    }
    numbers_[node] = number;
  }

  // Goes on by one byte; false where nothing goes on so.
  bool step(uint32_t* node, char c) const {
    const uint32_t* child = children_.find(key(*node, c));
    if (child) *node = *child;
    return child != nullptr;
  }

  // The number of the text that ends here, -1 for none.
  int32_t number(uint32_t node) const { return numbers_[node]; }

 private:
  static uint64_t key(uint32_t node, char c) { return uint64_t{node} << 8 | static_cast<unsigned char>(c); }

  FlatMap<uint32_t> children_;
  std::vector<int32_t> numbers_ = {-1};
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_TRIE_H_
