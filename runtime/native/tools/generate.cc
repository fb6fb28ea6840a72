#include "generate.h"

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "model.h"
#include "output.h"
#include "text.h"

namespace heddle_run {
namespace {

struct Answer {
  std::string text;
  std::vector<int32_t> tokens;
  heddle_finish finish = HEDDLE_RUNNING;
};

// Prints answers as they come, one behind the other: the first that is not done streams, those behind it wait.
class Printer {
 public:
  Printer(size_t count, bool ids) : answers_(count), ids_(ids) {}

  void take(const heddle_event& event) {
    Answer& answer = answers_[event.index];
    if (ids_ && event.token >= 0) answer.text += (answer.tokens.empty() ? "" : ",") + std::to_string(event.token);
    if (!ids_) answer.text.append(event.text, event.text_length);
    if (event.token >= 0) answer.tokens.push_back(event.token);
    answer.finish = event.finish;
    if (event.index == at_) advance();
  }

 private:
  void advance() {
    for (; at_ < answers_.size(); ++at_) {
      if (answers_.size() > 1 && headed_ == at_) print("==> " + std::to_string(++headed_) + " <==\n");
      Answer& answer = answers_[at_];
      print(answer.text);
      answer.text.clear();
      if (answer.finish == HEDDLE_RUNNING) return;
      print("\n");
    }
  }

  std::vector<Answer> answers_;
  bool ids_;
  size_t at_ = 0;      // the one that streams
  size_t headed_ = 0;  // how many have their heading
};

struct Prompts {
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> ids;  // where they are given
  std::vector<heddle_prompt> all;
};

std::string standard_input() {
  std::string text;
  char part[1 << 16];
  while (size_t count = std::fread(part, 1, sizeof(part), stdin)) text.append(part, count);
  if (std::ferror(stdin)) throw Failure("standard input cannot be read");
  return text;
}

Prompts read_prompts(const Options& options) {
  Prompts prompts;
  prompts.texts = options.prompts;
  if (prompts.texts.empty()) prompts.texts.push_back(standard_input());
  if (options.ids) {
    for (const std::string& text : prompts.texts) prompts.ids.push_back(parse_ids(text));
  }
  for (size_t i = 0; i < prompts.texts.size(); ++i) {
    heddle_prompt prompt{prompts.texts[i].data(), prompts.texts[i].size(), nullptr, 0};
    // A vector without elements may have no data, and a prompt without ids would be its text.
    static constexpr int32_t kNothing = 0;
    if (options.ids) prompt.ids = prompts.ids[i].empty() ? &kNothing : prompts.ids[i].data();
    if (options.ids) prompt.num_ids = prompts.ids[i].size();
    prompts.all.push_back(prompt);
  }
  return prompts;
}

// One for each prompt: without a seed, each gets its own.
std::vector<heddle_sampling> sampling_of(const Options& options, const std::vector<const char*>& stops, size_t count) {
  std::random_device random;
  heddle_sampling sampling = options.sampling;
  sampling.stop = stops.data();
  sampling.num_stop = stops.size();
  std::vector<heddle_sampling> all(count, sampling);
  for (heddle_sampling& one : all) one.seed = options.seed ? *options.seed : uint64_t{random()} << 32 | random();
  return all;
}

const char* name_of(heddle_finish finish) {
  switch (finish) {
    case HEDDLE_STOP:
      return "\"stop\"";
    case HEDDLE_LENGTH:
      return "\"length\"";
    case HEDDLE_ABORTED:
      return "\"abort\"";
    default:
      return "null";
  }
}

std::string stats_json(const heddle_stats& stats, const Model& model, double seconds) {
  JsonObject json;
  json.add("seconds", number(seconds))
      .add("prompt_tokens", std::to_string(stats.prompt_tokens))
      .add("generated_tokens", std::to_string(stats.generated_tokens))
      .add("prefill_seconds", number(stats.prefill_seconds))
      .add("decode_seconds", number(stats.decode_seconds))
      .add("first_token_seconds", number(stats.first_token_seconds))
      .add("load_seconds", number(model.load_seconds()))
      .add("peak_memory", std::to_string(peak_memory()));
  return json.text();
}

void print_json(const Options& options, Model& model, const Prompts& prompts,
                const std::vector<heddle_sampling>& sampling) {
  std::vector<Answer> answers(prompts.all.size());
  const Clock clock;
  const heddle_stats stats = model.generate(prompts.all, sampling, [&](const heddle_event& event) {
    Answer& answer = answers[event.index];
    answer.text.append(event.text, event.text_length);
    if (event.token >= 0) answer.tokens.push_back(event.token);
    answer.finish = event.finish;
  });
  const double seconds = clock.seconds();
  std::vector<std::string> outputs;
  for (size_t i = 0; i < answers.size(); ++i) {
    const size_t size = options.ids ? prompts.ids[i].size() : model.count_tokens(prompts.texts[i]);
    JsonObject json;
    json.add("prompt", options.ids ? "null" : quoted(prompts.texts[i]))
        .add("prompt_tokens", std::to_string(size))
        .add("text", quoted(answers[i].text))
        .add("token_ids", listed(answers[i].tokens))
        .add("finish_reason", name_of(answers[i].finish))
        .add("seed", std::to_string(sampling[i].seed));
    outputs.push_back(json.text());
  }
  JsonObject json;
  json.add("model", quoted(options.model))
      .add("target", quoted(model.info().target))
      .add("threads", std::to_string(model.info().threads))
      .add("outputs", listed(outputs))
      .add("stats", stats_json(stats, model, seconds));
  print(json.text() + "\n");
}

void stream(const Options& options, Model& model, const Prompts& prompts,
            const std::vector<heddle_sampling>& sampling) {
  Printer printer(prompts.all.size(), options.ids);
  const heddle_stats stats =
      model.generate(prompts.all, sampling, [&](const heddle_event& event) { printer.take(event); });
  // The first token of each answer comes with its prompt's step.
  const auto more = static_cast<double>(stats.generated_tokens) - static_cast<double>(prompts.all.size());
  const auto rate = [](double count, double seconds) { return seconds > 0 && count > 0 ? count / seconds : 0.0; };
  std::fprintf(stderr, "[%llu prompt tokens at %.0f/s, %.0f more at %.1f/s, %d threads, %s]\n",
               static_cast<unsigned long long>(stats.prompt_tokens),
               rate(static_cast<double>(stats.prompt_tokens), stats.prefill_seconds), more > 0 ? more : 0.0,
               rate(more, stats.decode_seconds), model.info().threads, visible(model.info().target).c_str());
}

}  // namespace

void generate(const Options& options) {
  const Prompts prompts = read_prompts(options);
  std::vector<const char*> stops;
  for (const std::string& stop : options.stop) stops.push_back(stop.c_str());
  const std::vector<heddle_sampling> sampling = sampling_of(options, stops, prompts.all.size());
  Model model(options);
  (options.json ? print_json : stream)(options, model, prompts, sampling);
}

}  // namespace heddle_run
