// A hash table from 64-bit keys to small values, for what is built once and looked up often.
#ifndef HEDDLE_TOKENIZER_FLAT_MAP_H_
#define HEDDLE_TOKENIZER_FLAT_MAP_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace heddle {

// Open addressing with linear probing, at most half full. The key of all ones is reserved.
template <typename Value>
class FlatMap {
 public:
  size_t size() const { return size_; }

  void reserve(size_t count) {
    size_t slots = 16;
    while (slots < count * 2) slots *= 2;
    if (slots > slots_.size()) rehash(slots);
  }

  // The value of a key, made by default where it is new.
  Value& operator[](uint64_t key) {
    if (slots_.size() < (size_ + 1) * 2) rehash(slots_.empty() ? 16 : slots_.size() * 2);
    auto& slot = slots_[place(key)];
    if (slot.first == kFree) slot.first = key, ++size_;
    return slot.second;
  }

  // nullptr where the key is not there.
  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const auto& slot = slots_[place(key)];
    return slot.first == kFree ? nullptr : &slot.second;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};

  size_t place(uint64_t key) const {
    size_t mask = slots_.size() - 1;
    uint64_t hash = key * 0x9e3779b97f4a7c15u;  // Fibonacci hashing: the high bits mix all of the key's
    size_t at = static_cast<size_t>(hash >> 32) & mask;
    while (slots_[at].first != key && slots_[at].first != kFree) at = (at + 1) & mask;
    return at;
  }

  void rehash(size_t slots) {
    std::vector<std::pair<uint64_t, Value>> old(slots, {kFree, Value()});
    old.swap(slots_);
    for (auto& slot : old) {
      if (slot.first != kFree) slots_[place(slot.first)] = std::move(slot);
    }
  }

  std::vector<std::pair<uint64_t, Value>> slots_;
  size_t size_ = 0;
};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_FLAT_MAP_H_
