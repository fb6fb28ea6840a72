// The C API: checks what callers give, and turns errors into statuses and texts.
#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "artifact.h"
#include "engine.h"
#include "error.h"
#include "heddle.h"
#include "runner.h"
#include "tokenizer.h"

struct heddle_model {
  heddle_model(heddle::Artifact opened, const heddle_open_options& options)
      : artifact(std::move(opened)),
        tokenizer(artifact.has("tokenizer.json") ? heddle::Tokenizer::load(artifact.path) : nullptr),
        runner(artifact, options.threads, options.kv_bytes),
        engine(artifact, &runner, tokenizer.get()) {}

  heddle::Artifact artifact;
  std::unique_ptr<heddle::Tokenizer> tokenizer;
  heddle::ModelRunner runner;
  heddle::Engine engine;
  std::thread::id owner = std::this_thread::get_id();
  bool busy = false;
};

namespace {

using heddle::bad_request;

thread_local std::string last_error;

heddle_status note(heddle_status status, const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();  // no memory for the text; the status says enough
  }
  return status;
}

// Calls `work`; whatever it throws becomes a status and a text.
template <typename Work>
heddle_status guarded(Work work) noexcept {
  try {
    work();
    last_error.clear();
    return HEDDLE_OK;
  } catch (const heddle::Error& error) {
    return note(error.status(), error.what());
  } catch (const tvm::ffi::Error& error) {
    return note(HEDDLE_FAILED, error.what());
  } catch (const std::bad_alloc&) {
    return note(HEDDLE_NO_MEMORY, "no memory is left\n  fix: free memory, or ask for less");
  } catch (const std::exception& error) {
    return note(HEDDLE_FAILED, error.what());
  } catch (...) {
    return note(HEDDLE_FAILED, "an exception that is none of Heddle's came out of a callback");
  }
}

template <typename T>
const T& present(const T* pointer, const char* name) {
  if (!pointer) throw bad_request(std::string(name) + " is NULL");
  return *pointer;
}

// A structure that the caller filled: it must be of this version.
template <typename T>
const T& of_this_version(const T& given, const char* name) {
  if (given.size == sizeof(T)) return given;
  throw bad_request(
      std::string(name) + ".size is " + std::to_string(given.size) + ", this library has " + std::to_string(sizeof(T)),
      "the structure was not filled by its function with _default, or belongs to another version",
      std::string("begin with ") + name + "_default, and build against the heddle.h of this library");
}

// A structure to be filled, which says how large it is.
template <typename T>
void check_room(const T* out, const char* name) {
  if (present(out, name).size >= sizeof(out->size)) return;
  throw bad_request(std::string(name) + ".size is " + std::to_string(out->size), "nothing can be written to it",
                    std::string("set ") + name + ".size to the size of the structure before the call");
}

// Fills as much of the caller's structure as it has room for.
template <typename T>
void give(T made, T* out) {
  const size_t size = std::min(out->size, sizeof(T));
  made.size = size;
  std::memcpy(out, &made, size);
}

const heddle::Tokenizer& tokenizer_of(const heddle_model* model) {
  const auto& tokenizer = present(model, "model").tokenizer;
  if (!tokenizer) {
    throw bad_request("the artifact has no tokenizer", "texts and token ids become each other by it",
                      "give token ids, or compile a checkpoint that has one");
  }
  return *tokenizer;
}

// Elements for a caller's array; *count becomes how many there are in any case.
template <typename T>
void give_array(const T* made, size_t size, T* out, size_t capacity, size_t* count) {
  if (!count) throw bad_request("the place for the count is NULL");
  *count = size;
  if (!out && capacity == 0) return;
  if (!out) throw bad_request("the array is NULL, its capacity is " + std::to_string(capacity));
  if (size > capacity) {
    throw bad_request("the array has room for " + std::to_string(capacity) + " elements, there are " +
                      std::to_string(size));
  }
  std::copy_n(made, size, out);
}

// Marks a model as busy: its callback must not use it again.
class Busy {
 public:
  explicit Busy(heddle_model* model) : model_(model) {
    if (model->owner != std::this_thread::get_id()) {
      throw bad_request("the model belongs to the thread that opened it",
                        "compiled code keeps a pool of threads for that thread alone",
                        "open another one in this thread, or hand the prompts over");
    }
    if (model->busy) throw bad_request("the model is generating: its callback cannot call heddle_generate");
    model->busy = true;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { model_->busy = false; }

 private:
  heddle_model* model_;
};

}  // namespace

extern "C" {

const char* heddle_version(void) { return HEDDLE_VERSION; }

const char* heddle_last_error(void) { return last_error.c_str(); }

void heddle_open_options_default(heddle_open_options* options) {
  if (options) *options = {sizeof(heddle_open_options), nullptr, 0, 0, 0};
}

heddle_status heddle_open(const char* path, const heddle_open_options* options, heddle_model** model) {
  if (model) *model = nullptr;
  return guarded([&] {
    heddle_open_options mine;
    heddle_open_options_default(&mine);
    if (options) mine = of_this_version(*options, "heddle_open_options");
    present(model, "model");
    heddle::Artifact artifact =
        heddle::open_artifact(&present(path, "path"), mine.target ? mine.target : "", mine.verify != 0);
    *model = std::make_unique<heddle_model>(std::move(artifact), mine).release();
  });
}

void heddle_close(heddle_model* model) { std::unique_ptr<heddle_model> closed(model); }

heddle_status heddle_get_info(const heddle_model* model, heddle_model_info* info) {
  return guarded([&] {
    check_room(info, "info");
    const heddle::Manifest& manifest = present(model, "model").artifact.manifest;
    heddle_model_info made = {};
    made.architecture = manifest.model.architecture.c_str();
    made.target = model->artifact.target.name.c_str();
    made.vocab_size = static_cast<int32_t>(manifest.model.vocab_size);
    made.context_length = static_cast<int32_t>(manifest.model.context_length);
    made.max_tokens = static_cast<int32_t>(manifest.plan.max_tokens);
    made.max_seqs = static_cast<int32_t>(manifest.plan.max_seqs);
    made.page_tokens = static_cast<int32_t>(heddle::kPage);
    made.num_pages = static_cast<int32_t>(model->runner.num_pages());
    made.threads = model->runner.threads();
    made.weights_bytes = model->runner.weights_bytes();
    made.kv_bytes = model->runner.kv_bytes();
    give(made, info);
  });
}

heddle_status heddle_tokenize(const heddle_model* model, const char* text, size_t length, int add_special_tokens,
                              int32_t* ids, size_t capacity, size_t* count) {
  return guarded([&] {
    const heddle::Tokenizer& tokenizer = tokenizer_of(model);
    if (length) present(text, "text");
    const std::vector<int32_t> made = tokenizer.encode({length ? text : "", length}, add_special_tokens != 0);
    give_array(made.data(), made.size(), ids, capacity, count);
  });
}

heddle_status heddle_detokenize(const heddle_model* model, const int32_t* ids, size_t count, int skip_special_tokens,
                                char* text, size_t capacity, size_t* length) {
  return guarded([&] {
    const heddle::Tokenizer& tokenizer = tokenizer_of(model);
    if (count) present(ids, "ids");
    const std::string made = tokenizer.decode(ids, count, skip_special_tokens != 0);
    give_array(made.data(), made.size(), text, capacity, length);
  });
}

void heddle_sampling_default(heddle_sampling* sampling) {
  if (!sampling) return;
  *sampling = {};
  sampling->size = sizeof(heddle_sampling);
  sampling->max_tokens = 16;
  sampling->temperature = sampling->top_p = sampling->typical_p = sampling->repetition_penalty = 1;
  sampling->skip_special_tokens = 1;
}

heddle_status heddle_generate(heddle_model* model, const heddle_prompt* prompts, size_t count,
                              const heddle_sampling* sampling, size_t sampling_count, heddle_on_event on_event,
                              void* context, heddle_stats* stats) {
  return guarded([&] {
    present(model, "model");
    const Busy busy(model);
    if (!on_event) throw bad_request("on_event is NULL", "nobody would hear of the tokens");
    if (stats) check_room(stats, "stats");  // before the work, not after it
    if (count) present(prompts, "prompts");
    if (count && sampling_count != 1 && sampling_count != count) {
      throw bad_request(
          "sampling_count is " + std::to_string(sampling_count) + " for " + std::to_string(count) + " prompts", "",
          "give one for all, or one for each");
    }
    if (sampling_count) present(sampling, "sampling");
    std::vector<heddle::SamplingParams> params;
    for (size_t i = 0; i < sampling_count; ++i) {
      params.push_back(heddle::read_sampling(of_this_version(sampling[i], "heddle_sampling"),
                                             "sampling[" + std::to_string(i) + "]"));
    }
    const heddle_stats made = model->engine.generate({prompts, prompts + count}, params, on_event, context);
    if (stats) give(made, stats);
  });
}

}  // extern "C"
