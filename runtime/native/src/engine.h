// Prompts in, tokens and texts out: continuous batching over the paged cache; as runtime/engine.py.
#ifndef HEDDLE_ENGINE_H_
#define HEDDLE_ENGINE_H_

#include <chrono>
#include <memory>
#include <vector>

#include "artifact.h"
#include "heddle.h"
#include "runner.h"
#include "sampler.h"
#include "scheduler.h"
#include "sequence.h"
#include "tokenizer.h"

namespace heddle {

class Engine {
 public:
  // `tokenizer` is null where the artifact has none. All must outlive this.
  Engine(const Artifact& artifact, ModelRunner* runner, const Tokenizer* tokenizer);

  // As heddle_generate, whose arguments were checked to be there. Error where a prompt cannot be served, before any
  // work starts.
  heddle_stats generate(const std::vector<heddle_prompt>& prompts, const std::vector<SamplingParams>& params,
                        heddle_on_event on_event, void* context);

 private:
  std::unique_ptr<Sequence> prepare(const heddle_prompt& prompt, const SamplingParams& params, size_t index) const;

  const Manifest& manifest_;
  ModelRunner* runner_;
  const Tokenizer* tokenizer_;
  std::vector<int32_t> end_ids_;
  Sampler sampler_;
};

}  // namespace heddle

#endif  // HEDDLE_ENGINE_H_
