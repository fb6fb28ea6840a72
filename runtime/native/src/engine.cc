#include "engine.h"

#include <algorithm>
#include <optional>
#include <string>

#include "end_tokens.h"
#include "error.h"

namespace heddle {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// One call of generate: its sequences, and whom it tells.
class Run {
 public:
  Run(const Manifest& manifest, ModelRunner* runner, Sampler* sampler, std::vector<std::unique_ptr<Sequence>> sequences,
      heddle_on_event on_event, void* context)
      : runner_(runner),
        sampler_(sampler),
        sequences_(std::move(sequences)),
        on_event_(on_event),
        context_(context),
        pool_(runner->num_pages()),
        scheduler_(manifest.plan, &pool_) {
    for (const auto& sequence : sequences_) {
      scheduler_.add(sequence.get());
      stats_.prompt_tokens += static_cast<uint64_t>(sequence->num_prompt);
    }
  }

  heddle_stats go(Clock::time_point begin) {
    begin_ = begin;
    while (scheduler_.has_work()) step();
    return stats_;
  }

 private:
  void step() {
    const Clock::time_point begin = Clock::now();
    const std::vector<Share> shares = scheduler_.next();
    if (shares.empty()) throw failed("no sequence could be served although some wait");
    std::vector<PlanSequence> plan;
    std::vector<int32_t> tokens, logit_rows;
    std::vector<const Sequence*> drawing;
    bool prompts = false;
    for (const Share& share : shares) {
      const Sequence& sequence = *share.sequence;
      const auto first = sequence.tokens.begin() + sequence.computed;
      prompts |= sequence.computed < sequence.num_prompt;
      plan.push_back({&sequence.pages, sequence.computed, share.rows});
      tokens.insert(tokens.end(), first, first + share.rows);
      if (share.rows == sequence.pending()) {
        drawing.push_back(&sequence);
        logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
      }
    }
    std::vector<int32_t> drawn;
    runner_->forward(plan, tokens, logit_rows, [&](const Tensor& logits, size_t first) {
      const auto begins = drawing.begin() + static_cast<int64_t>(first);
      const std::vector<int32_t> more = sampler_->sample(logits, {begins, begins + logits.size(0)});
      drawn.insert(drawn.end(), more.begin(), more.end());
    });
    (prompts ? stats_.prefill_seconds : stats_.decode_seconds) += seconds_since(begin);
    auto token = drawn.begin();
    for (const Share& share : shares) {
      Sequence* sequence = share.sequence;
      sequence->computed += share.rows;
      if (sequence->pending() == 0) accept(sequence, *token++);
    }
  }

  // Append a chosen token, tell of it, and decide whether it was the last.
  void accept(Sequence* sequence, int32_t token) {
    if (token == kNoToken) {
      throw failed("the logits of prompts[" + std::to_string(sequence->index) + "] at position " +
                       std::to_string(sequence->num_tokens() - 1) + " allow no token: they are not finite",
                   "no token can be chosen from them",
                   "check the weights of the model; weights or activations may overflow their type");
    }
    sequence->tokens.push_back(token);
    ++stats_.generated_tokens;
    heddle_finish finish = HEDDLE_RUNNING;
    std::string text;
    if (sequence->ends_with(token)) {
      finish = HEDDLE_STOP;
    } else {
      if (sequence->texts) text = sequence->texts->push(token);
      if (sequence->num_tokens() == sequence->max_length) finish = HEDDLE_LENGTH;
    }
    if (sequence->texts) {
      if (finish != HEDDLE_RUNNING && !sequence->texts->found()) text += sequence->texts->finish();
      if (sequence->texts->found()) finish = HEDDLE_STOP;
    }
    const bool goes_on = tell(*sequence, token, text, finish);
    if (!goes_on && finish == HEDDLE_RUNNING) {
      finish = HEDDLE_ABORTED;
      tell(*sequence, -1, "", finish);
    }
    if (finish != HEDDLE_RUNNING) scheduler_.remove(sequence);
  }

  bool tell(const Sequence& sequence, int32_t token, const std::string& text, heddle_finish finish) {
    if (sequence.index == 0 && stats_.first_token_seconds == 0) stats_.first_token_seconds = seconds_since(begin_);
    const heddle_event event = {sequence.index, token, text.data(), text.size(), finish};
    return on_event_(context_, &event) == 0;
  }

  ModelRunner* runner_;
  Sampler* sampler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  heddle_on_event on_event_;
  void* context_;
  PagePool pool_;
  Scheduler scheduler_;
  Clock::time_point begin_;
  heddle_stats stats_{sizeof(heddle_stats), 0, 0, 0, 0, 0};
};

std::vector<int32_t> prompt_tokens(const heddle_prompt& prompt, const Tokenizer* tokenizer, const std::string& about) {
  if (prompt.ids) return {prompt.ids, prompt.ids + prompt.num_ids};
  if (!prompt.text) throw bad_request(about + "the prompt has neither a text nor token ids");
  if (!tokenizer) {
    throw bad_request(about + "the artifact has no tokenizer", "a text must become token ids", "give token ids");
  }
  return tokenizer->encode({prompt.text, prompt.text_length}, true);
}

}  // namespace

Engine::Engine(const Artifact& artifact, ModelRunner* runner, const Tokenizer* tokenizer)
    : manifest_(artifact.manifest),
      runner_(runner),
      tokenizer_(tokenizer),
      end_ids_(end_tokens(artifact, tokenizer)),
      sampler_(runner->library(), artifact.manifest.model.vocab_size) {
  // A kernel that bans them wants tokens of the vocabulary; others are never chosen.
  end_ids_.erase(std::remove_if(end_ids_.begin(), end_ids_.end(),
                                [&](int32_t id) { return id >= artifact.manifest.model.vocab_size; }),
                 end_ids_.end());
}

std::unique_ptr<Sequence> Engine::prepare(const heddle_prompt& prompt, const SamplingParams& params,
                                          size_t index) const {
  const std::string about = "prompts[" + std::to_string(index) + "]: ";
  const int64_t vocab = manifest_.model.vocab_size, context = manifest_.model.context_length;
  auto sequence = std::make_unique<Sequence>();
  sequence->index = index;
  sequence->params = params;
  sequence->tokens = prompt_tokens(prompt, tokenizer_, about);
  sequence->num_prompt = sequence->num_tokens();
  if (sequence->tokens.empty()) {
    throw bad_request(about + "the prompt is empty", "a model needs at least one token to go on from");
  }
  for (size_t i = 0; i < sequence->tokens.size(); ++i) {
    const int32_t token = sequence->tokens[i];
    if (token >= 0 && token < vocab) continue;
    throw bad_request(about + "token id " + std::to_string(token) + " at position " + std::to_string(i) +
                          " is out of range; the model knows 0 to " + std::to_string(vocab - 1),
                      "", "use the tokenizer that belongs to the model");
  }
  if (sequence->num_prompt >= context) {
    throw bad_request(about + "the prompt has " + std::to_string(sequence->num_prompt) + " tokens; the context holds " +
                          std::to_string(context),
                      "the context must have room for one more token at least", "shorten the prompt");
  }
  sequence->max_length = std::min(sequence->num_prompt + params.max_tokens, context);
  if (sequence->pages_needed() > runner_->num_pages()) {
    throw bad_request(about + "a prompt of " + std::to_string(sequence->num_prompt) + " tokens with max_tokens=" +
                          std::to_string(params.max_tokens) + " needs " + std::to_string(sequence->pages_needed()) +
                          " pages of the KV cache; the pool has " + std::to_string(runner_->num_pages()),
                      "a page holds " + std::to_string(kPage) + " tokens, and a request must fit by itself",
                      "shorten the prompt, lower max_tokens, or open the model with a larger KV pool");
  }
  if (!params.stop.empty() && !tokenizer_)
    throw bad_request(about + "stop texts need a tokenizer, the artifact has none");
  if (!params.ignore_eos) sequence->end_ids = end_ids_;
  if (tokenizer_) sequence->texts.emplace(*tokenizer_, params.stop, params.skip_special_tokens);
  sequence->tokens.reserve(static_cast<size_t>(sequence->max_length));
  return sequence;
}

heddle_stats Engine::generate(const std::vector<heddle_prompt>& prompts, const std::vector<SamplingParams>& params,
                              heddle_on_event on_event, void* context) {
  const Clock::time_point begin = Clock::now();
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (size_t i = 0; i < prompts.size(); ++i) {
    sequences.push_back(prepare(prompts[i], params[params.size() == 1 ? 0 : i], i));
  }
  return Run(manifest_, runner_, &sampler_, std::move(sequences), on_event, context).go(begin);
}

}  // namespace heddle
