#include "vocabulary.h"

#include <functional>

#include "../error.h"
#include "../text.h"

namespace heddle {

Vocabulary::Vocabulary(const Rule& rule) {
  simdjson::dom::object object = rule.object();
  size_t count = 0, bytes = 0;
  for (auto [token, id] : object) ++count, bytes += token.size();
  reserve(count);
  texts_.reserve(bytes);
  for (auto [token, id] : object) {
    int64_t number;
    if (id.get_int64().get(number) || number < 0 || number >= kMostIds) {
      throw bad_artifact(
          rule.path() + " gives the token " + quote(token) + " no id from 0 to " + std::to_string(kMostIds - 1), "",
          kCopyAgain);
    }
    add(token, static_cast<int32_t>(number));
  }
}

void Vocabulary::reserve(size_t count) {
  size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  slots_.assign(slots, {0, kNone});
  entries_.reserve(count);
  by_id_.reserve(count);
  for (size_t i = 0; i < entries_.size(); ++i) {
    uint32_t code = hash(text(entries_[i]));
    slots_[place(text(entries_[i]), code)] = {code, static_cast<int32_t>(i)};
  }
}

void Vocabulary::add(std::string_view token, int32_t id) {
  if (slots_.size() < (entries_.size() + 1) * 2) reserve((entries_.size() + 1) * 2);
  uint32_t code = hash(token);
  Slot& slot = slots_[place(token, code)];
  if (slot.entry == kNone) {
    slot = {code, static_cast<int32_t>(entries_.size())};
    entries_.push_back({static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(token.size()), id});
    texts_ += token;
  } else {
    entries_[slot.entry].id = id;
  }
  if (static_cast<size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<size_t>(id) + 1, kNone);
  by_id_[id] = slot.entry;
}

int32_t Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return kNone;
  int32_t entry = slots_[place(token, hash(token))].entry;
  return entry == kNone ? kNone : entries_[entry].id;
}

uint32_t Vocabulary::hash(std::string_view token) {
  return static_cast<uint32_t>(std::hash<std::string_view>()(token));
}

size_t Vocabulary::place(std::string_view token, uint32_t hash) const {
  size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  while (slots_[at].entry != kNone && (slots_[at].hash != hash || text(entries_[slots_[at].entry]) != token)) {
    at = (at + 1) & mask;
  }
  return at;
}

}  // namespace heddle
