#include "runner.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <string>

#include "error.h"
#include "kv_memory.h"
#include "text.h"
#include "thread_pool.h"

namespace heddle {

namespace {

constexpr int64_t kLogitBytes = 64 << 20;  // of one call of `head` at most; more rows are computed in turns
// Query heads of one KV head up to which rows of several sequences read a shared prefix together (docs/performance.md).
constexpr int64_t kCascadeSharing = 4;

// What this runtime serves, of all that a manifest may describe.
const CacheGroup& the_cache(const Manifest& manifest) {
  if (manifest.model.kind != "decoder") {
    throw bad_artifact("the artifact holds an encoder, which generates no text", "",
                       "use Python: LLM(path).embed(texts)");
  }
  if (manifest.caches.size() != 1 || manifest.caches.front().kind != "paged") {
    throw bad_artifact("this runtime serves one paged cache group, the artifact has " +
                       std::to_string(manifest.caches.size()) + " groups");
  }
  const CacheGroup& group = manifest.caches.front();
  if (group.page_tokens != kPage) {
    throw bad_artifact("manifest.caches[0].page_tokens is " + std::to_string(group.page_tokens) +
                       ", this runtime has pages of " + std::to_string(kPage));
  }
  return group;
}

int prepared_threads(int threads) {
  const int count = thread_count(threads);
  set_threads(count);
  return count;
}

Tensor pool_tensor(const CacheGroup& group, int64_t pages, const Region& pool) {
  std::vector<int64_t> shape = {pages};
  shape.insert(shape.end(), group.record_shape.begin(), group.record_shape.end());
  return borrow(pool.data(), tvm::ffi::ShapeView(shape.data(), shape.size()), storage_type(group.dtype));
}

Division division(const Manifest& manifest, int threads) {
  return {threads, manifest.window, manifest.model.num_heads / manifest.model.num_kv_heads <= kCascadeSharing};
}

int64_t longest_table(const Manifest& manifest, int64_t pages) {
  return std::min(pages, (manifest.model.context_length + kPage - 1) / kPage);
}

}  // namespace

CompiledFunction::CompiledFunction(const Manifest& manifest, const Library& library, const Weights& weights,
                                   const char* name) {
  const FunctionInfo& info = manifest.function(name);
  for (const std::string& param : info.params) params_.push_back(weights.at(param));
  for (const InstanceInfo& instance : info.instances) {
    instances_.push_back({instance.max_rows, library.function(instance.symbol)});
  }
}

const Function& CompiledFunction::instance(int64_t rows) const {
  for (const Instance& instance : instances_) {
    if (rows <= instance.max_rows) return instance.function;
  }
  throw failed(std::to_string(rows) + " rows in one step, the artifact was compiled for " + std::to_string(max_rows()));
}

ModelRunner::ModelRunner(const Artifact& artifact, int threads, uint64_t kv_bytes) try
    : manifest_(artifact.manifest),
      threads_((the_cache(manifest_), prepared_threads(threads))),
      library_(artifact.file(artifact.target.library)),
      num_pages_(pool_pages(manifest_, kv_bytes)),
      weights_(artifact),
      pool_(allocate(static_cast<size_t>(num_pages_ * the_cache(manifest_).record_bytes),
                     "the KV pool of " + std::to_string(num_pages_) + " pages",
                     "ask for a smaller KV pool, or free memory")),
      cache_(pool_tensor(the_cache(manifest_), num_pages_, pool_)),
      embed_(manifest_, library_, weights_, "embed"),
      body_(manifest_, library_, weights_, "body"),
      head_(manifest_, library_, weights_, "head"),
      plan_(manifest_.plan, library_, division(manifest_, threads_), longest_table(manifest_, num_pages_)),
      logit_rows_(std::min(head_.max_rows(), std::max<int64_t>(1, kLogitBytes / (4 * manifest_.model.vocab_size)))) {
  tokens_.reserve(static_cast<size_t>(manifest_.plan.max_tokens));
  rows_.reserve(static_cast<size_t>(logit_rows_));
  warm_up();
} catch (const tvm::ffi::Error& error) {
  throw bad_artifact("the compiled code does not run with this manifest and these weights", error.message(),
                     "compile again");
}

void ModelRunner::forward(const std::vector<PlanSequence>& sequences, const std::vector<int32_t>& tokens,
                          const std::vector<int32_t>& logit_rows,
                          const std::function<void(const Tensor&, size_t)>& take) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  if (plan_.build(sequences, n <= body_.few_rows()) != n) throw failed("a step's tokens and sequences disagree");
  std::copy(tokens.begin(), tokens.end(), tokens_.data());
  results_.expect(static_cast<uint64_t>(4 * n * manifest_.model.hidden_size));
  const Tensor x = embed_(n, tokens_.view({n}));
  const Tensor hidden = body_(n, x, plan_.positions(), plan_.plan(), cache_);
  for (size_t first = 0; first < logit_rows.size(); first += static_cast<size_t>(logit_rows_)) {
    const int64_t count = std::min(logit_rows_, static_cast<int64_t>(logit_rows.size() - first));
    std::copy_n(logit_rows.begin() + static_cast<int64_t>(first), count, rows_.data());
    results_.expect(static_cast<uint64_t>(4 * count * manifest_.model.vocab_size));
    take(head_(count, hidden, rows_.view({count})), first);
  }
}

// One small step on page 0 (whose slots are written again before they are read): starts the worker threads, and finds
// out whether code and manifest speak of the same model.
void ModelRunner::warm_up() {
  const std::vector<int32_t> page = {0};
  const int64_t rows = std::min<int64_t>(2, manifest_.plan.max_tokens);
  const std::vector<int32_t> tokens(static_cast<size_t>(rows), 0);
  const std::vector<int32_t> wanted = {static_cast<int32_t>(rows) - 1};
  forward({{&page, 0, rows}}, tokens, wanted, [&](const Tensor& logits, size_t) {
    if (logits.ndim() != 2 || logits.size(1) != manifest_.model.vocab_size || logits.dtype().code != kDLFloat ||
        logits.dtype().bits != 32) {
      throw bad_artifact("manifest.model.vocab_size is " + std::to_string(manifest_.model.vocab_size) +
                             ", the compiled code gives other logits",
                         "manifest and library disagree", "compile again");
    }
  });
}

}  // namespace heddle
