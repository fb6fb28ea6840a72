#include "sampler.h"

#include <algorithm>

namespace heddle {

namespace {

constexpr int kDrawFields = 6;   // row, greedy, top k, top p, typical p, random
constexpr int kScaleFields = 2;  // 1 / temperature, least logarithm of a candidate's share
constexpr int kEditFields = 8;   // row, restricted, begins of five lists, end
constexpr int kPenalties = 3;    // repetition, frequency, presence
constexpr int kUnitBits = 62;

}  // namespace

Sampler::Sampler(const Library& library, int64_t vocab_size)
    : choose_(library.kernel("sample_tokens")), edit_(library.kernel("edit_logits")), vocab_size_(vocab_size) {}

std::vector<int32_t> Sampler::sample(const Tensor& logits, const std::vector<const Sequence*>& sequences) {
  std::vector<int32_t> tokens(sequences.size());
  std::vector<Row> plain, changed;
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto& rows = sequences[i]->needs_edits() ? changed : plain;
    rows.push_back({static_cast<int64_t>(i), sequences[i], &tokens[i]});
  }
  choose(logits, plain);
  if (!changed.empty()) {
    const Tensor edited = edit(logits, changed);
    for (size_t i = 0; i < changed.size(); ++i) changed[i].row = static_cast<int64_t>(i);
    choose(edited, changed);
  }
  return tokens;
}

void Sampler::choose(const Tensor& logits, const std::vector<Row>& rows) {
  if (rows.empty()) return;
  const int64_t count = static_cast<int64_t>(rows.size());
  table_.reserve(rows.size() * kDrawFields);
  scales_.reserve(rows.size() * kScaleFields);
  tokens_.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sequence& sequence = *rows[i].sequence;
    const DrawSettings settings = draw_settings(sequence.params);
    const uint64_t bits = random_bits(sequence.params.seed, sequence.tokens.size());
    const int64_t fields[kDrawFields] = {rows[i].row,        settings.greedy,
                                         settings.top_k,     settings.top_p,
                                         settings.typical_p, static_cast<int64_t>(bits >> (64 - kUnitBits))};
    std::copy_n(fields, kDrawFields, table_.data() + i * kDrawFields);
    scales_.data()[i * kScaleFields] = settings.scale;
    scales_.data()[i * kScaleFields + 1] = settings.floor;
  }
  choose_(logits, table_.view({count, kDrawFields}), scales_.view({count, kScaleFields}), tokens_.view({count}));
  for (size_t i = 0; i < rows.size(); ++i) *rows[i].token = tokens_.data()[i];
}

Tensor Sampler::edit(const Tensor& logits, const std::vector<Row>& rows) {
  const int64_t count = static_cast<int64_t>(rows.size());
  std::vector<int32_t>
      lists;  // of each row: allowed, banned, biased (none of these two here), of the prompt, generated
  edit_table_.reserve(rows.size() * kEditFields);
  penalties_.reserve(rows.size() * kPenalties);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sequence& sequence = *rows[i].sequence;
    const SamplingParams& params = sequence.params;
    const auto generated = sequence.tokens.begin() + sequence.num_prompt;
    const int64_t begin = static_cast<int64_t>(lists.size());
    if (sequence.held_open()) lists.insert(lists.end(), sequence.end_ids.begin(), sequence.end_ids.end());
    const int64_t prompt = static_cast<int64_t>(lists.size());
    if (params.repetition_penalty != 1) lists.insert(lists.end(), sequence.tokens.begin(), generated);
    const int64_t output = static_cast<int64_t>(lists.size());
    if (params.penalizes()) lists.insert(lists.end(), generated, sequence.tokens.end());
    const int64_t end = static_cast<int64_t>(lists.size());
    const int64_t fields[kEditFields] = {rows[i].row, 0, begin, begin, prompt, prompt, output, end};
    std::copy_n(fields, kEditFields, edit_table_.data() + i * kEditFields);
    const double penalties[kPenalties] = {params.repetition_penalty, params.frequency_penalty, params.presence_penalty};
    std::transform(penalties, penalties + kPenalties, penalties_.data() + i * kPenalties,
                   [](double value) { return static_cast<float>(value); });
  }
  const int64_t listed = std::max<int64_t>(1, static_cast<int64_t>(lists.size()));  // a kernel's array is never empty
  lists_.reserve(static_cast<size_t>(listed));
  biases_.reserve(static_cast<size_t>(listed));
  std::copy(lists.begin(), lists.end(), lists_.data());
  edited_.reserve(rows.size() * static_cast<size_t>(vocab_size_));
  const Tensor edited = edited_.view({count, vocab_size_});
  edit_(logits, edit_table_.view({count, kEditFields}), penalties_.view({count, kPenalties}), lists_.view({listed}),
        biases_.view({listed}), edited);
  return edited;
}

}  // namespace heddle
