#include "bench.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "model.h"
#include "output.h"
#include "text.h"

namespace heddle_run {
namespace {

constexpr int kUsual[] = {128, 512, 2048};

class Rates {
 public:
  void add(double rate) { rates_.insert(std::upper_bound(rates_.begin(), rates_.end(), rate), rate); }
  double least() const { return rates_.front(); }
  double most() const { return rates_.back(); }
  double median() const {
    const size_t half = rates_.size() / 2;
    return rates_.size() % 2 ? rates_[half] : (rates_[half - 1] + rates_[half]) / 2;
  }
  std::string json() const {
    JsonObject json;
    json.add("median", number(median())).add("least", number(least())).add("most", number(most()));
    return json.text();
  }
  std::string cell() const {
    char text[64];
    std::snprintf(text, sizeof(text), "%9.1f (%.1f to %.1f)", median(), least(), most());
    return text;
  }

 private:
  std::vector<double> rates_;  // ascending
};

struct Result {
  int length;
  Rates prompt, decode;  // tokens per second
};

// One round, whose prompt and tokens fit the context: its rates go to `result`, if there is one.
void measure(const Options& options, Model& model, int length, std::mt19937& random, Result* result) {
  const auto batch = static_cast<size_t>(options.batch);
  std::vector<std::vector<int32_t>> ids(batch, std::vector<int32_t>(static_cast<size_t>(length)));
  std::vector<heddle_prompt> prompts;
  for (auto& one : ids) {
    // The remainder is nearly even, and alike with every standard library.
    for (int32_t& id : one) id = static_cast<int32_t>(random() % static_cast<uint32_t>(model.info().vocab_size));
    prompts.push_back({nullptr, 0, one.data(), one.size()});
  }
  heddle_sampling sampling = options.sampling;
  sampling.temperature = 0;
  sampling.ignore_eos = 1;
  std::vector<bool> begun(batch);
  size_t waiting = batch, later = 0;  // sequences without a token, tokens since there are none
  double first = 0, last = 0;
  const Clock clock;
  model.generate(prompts, {sampling}, [&](const heddle_event& event) {
    if (event.token < 0) return;
    if (waiting == 0) ++later;
    if (waiting > 0 && !begun[event.index]) {
      begun[event.index] = true;
      if (--waiting == 0) first = clock.seconds();
    }
    last = clock.seconds();
  });
  if (Interrupts::noted() || !result) return;
  result->prompt.add(static_cast<double>(batch) * length / first);
  if (later > 0) result->decode.add(static_cast<double>(later) / (last - first));
}

std::string json_of(const Options& options, const Model& model, const std::vector<Result>& results) {
  std::vector<std::string> rows;
  for (const Result& result : results) {
    JsonObject row;
    row.add("prompt_tokens", std::to_string(result.length)).add("prompt_tokens_per_second", result.prompt.json());
    if (options.sampling.max_tokens > 1) row.add("decode_tokens_per_second", result.decode.json());
    rows.push_back(row.text());
  }
  JsonObject json;
  json.add("model", quoted(options.model))
      .add("target", quoted(model.info().target))
      .add("threads", std::to_string(model.info().threads))
      .add("batch", std::to_string(options.batch))
      .add("max_tokens", std::to_string(options.sampling.max_tokens))
      .add("rounds", std::to_string(options.rounds))
      .add("results", listed(rows))
      .add("load_seconds", number(model.load_seconds()))
      .add("peak_memory", std::to_string(peak_memory()));
  return json.text() + "\n";
}

std::string table_of(const Options& options, const Model& model, const std::vector<Result>& results) {
  char text[256];
  std::snprintf(text, sizeof(text),
                "%s, %s, %d threads, batch %d, %d tokens each, medians of %d rounds (least to most)\n",
                model.info().architecture, model.info().target, model.info().threads, options.batch,
                options.sampling.max_tokens, options.rounds);
  std::string table = text;
  std::snprintf(text, sizeof(text), "%8s  %-30s  %s\n", "prompt", "  prompt tokens/s", "  decode tokens/s");
  table += text;
  for (const Result& result : results) {
    std::snprintf(text, sizeof(text), "%8d  %-30s  %s\n", result.length, result.prompt.cell().c_str(),
                  options.sampling.max_tokens > 1 ? result.decode.cell().c_str() : "");
    table += text;
  }
  std::snprintf(text, sizeof(text), "loaded in %.0f ms, peak memory %.1f MB\n", model.load_seconds() * 1e3,
                static_cast<double>(peak_memory()) / 1e6);
  return table + text;
}

}  // namespace

void bench(const Options& options) {
  Model model(options);
  const auto fits = [&](int length) {
    return length + int64_t{options.sampling.max_tokens} <= model.info().context_length;
  };
  std::vector<int> lengths = options.lengths;
  if (lengths.empty()) std::copy_if(std::begin(kUsual), std::end(kUsual), std::back_inserter(lengths), fits);
  for (int length : lengths) {
    if (fits(length)) continue;
    throw Failure("a prompt of " + std::to_string(length) + " tokens and " +
                      std::to_string(options.sampling.max_tokens) + " more do not fit",
                  "the context holds " + std::to_string(model.info().context_length) + " tokens",
                  "give shorter --lengths, or fewer --max-tokens");
  }
  if (lengths.empty()) {
    throw Failure("no prompt of the usual lengths fits",
                  "the context holds " + std::to_string(model.info().context_length) + " tokens",
                  "give --lengths, or fewer --max-tokens");
  }
  std::mt19937 random(0);
  std::vector<Result> results;
  for (int length : lengths) {
    Result result{length, {}, {}};
    for (int round = 0; round <= options.rounds; ++round) {
      measure(options, model, length, random, round ? &result : nullptr);
      if (Interrupts::noted()) return;
    }
    results.push_back(std::move(result));
  }
  print(options.json ? json_of(options, model, results) : table_of(options, model, results));
}

}  // namespace heddle_run
