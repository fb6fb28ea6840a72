/* Heddle's native runtime: an artifact in, tokens out. No Python, no compiler.
 *
 * Functions give HEDDLE_OK or the kind of error; heddle_last_error then says what is wrong, why, and how to mend it, until the
 * next call on the same thread. Texts are UTF-8; lengths are bytes. Structures begin with their size, so that later versions
 * may add fields: the *_default functions fill it in, and the caller does where there is none. A model belongs to the thread
 * that opened it: its compiled code keeps a pool of threads for that thread alone. Different models may be used by different
 * threads; those that one thread opens share its pool, so open them with the same `threads`.
 */
#ifndef HEDDLE_H_
#define HEDDLE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define HEDDLE_API __declspec(dllexport)
#else
#define HEDDLE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum heddle_status {
  HEDDLE_OK = 0,
  HEDDLE_BAD_ARTIFACT = 1, /* the artifact is damaged, of another version, or not for this machine */
  HEDDLE_BAD_REQUEST = 2,  /* an argument cannot be: too long a prompt, an unknown token, a negative temperature */
  HEDDLE_NO_MEMORY = 3,
  HEDDLE_FAILED = 4 /* anything else */
} heddle_status;

/* The version of the library, "0.1.0". */
HEDDLE_API const char* heddle_version(void);

/* What went wrong in the last call of this thread that did not give HEDDLE_OK; "" where none did. */
HEDDLE_API const char* heddle_last_error(void);

/* ---------------------------------------------------------------------------------------------------------------- models */

typedef struct heddle_model heddle_model;

typedef struct heddle_open_options {
  size_t size;
  const char* target; /* the library to run, by its target's name; NULL: the best that this CPU can run */
  int threads;        /* 0: TVM_NUM_THREADS, else the physical cores that this process may use */
  uint64_t kv_bytes;  /* size of the KV pool; 0: two full contexts, or half of the memory that weights leave where that is less */
  int verify;         /* 0: hash the small files, 1: all */
} heddle_open_options;

HEDDLE_API void heddle_open_options_default(heddle_open_options* options);

/* Open the artifact directory at `path`; `options` may be NULL. *model is NULL unless the call gives HEDDLE_OK. */
HEDDLE_API heddle_status heddle_open(const char* path, const heddle_open_options* options, heddle_model** model);

/* Free the model; NULL does nothing. Not from a callback of its own. */
HEDDLE_API void heddle_close(heddle_model* model);

typedef struct heddle_model_info {
  size_t size;
  const char* architecture; /* these two live as long as the model */
  const char* target;
  int32_t vocab_size;
  int32_t context_length;
  int32_t max_tokens; /* rows of a step */
  int32_t max_seqs;   /* sequences of a step */
  int32_t page_tokens;
  int32_t num_pages;
  int32_t threads;
  uint64_t weights_bytes;
  uint64_t kv_bytes;
} heddle_model_info;

/* `info->size` is set by the caller. */
HEDDLE_API heddle_status heddle_get_info(const heddle_model* model, heddle_model_info* info);

/* -------------------------------------------------------------------------------------------------------------- tokenizer */

/* Token ids of `text`. *count becomes how many there are, also where that exceeds `capacity`: then nothing is written and the
 * call gives HEDDLE_BAD_REQUEST; with capacity 0 and ids NULL it only counts and gives HEDDLE_OK. */
HEDDLE_API heddle_status heddle_tokenize(const heddle_model* model, const char* text, size_t length, int add_special_tokens,
                                         int32_t* ids, size_t capacity, size_t* count);

/* The text of token ids, with *length and `capacity` in bytes as above; no terminating zero is written. */
HEDDLE_API heddle_status heddle_detokenize(const heddle_model* model, const int32_t* ids, size_t count,
                                           int skip_special_tokens, char* text, size_t capacity, size_t* length);

/* ------------------------------------------------------------------------------------------------------------- generation */

/* Fields and values are those of SamplingParams of the Python runtime; the same ones and the same seed give the same tokens. */
typedef struct heddle_sampling {
  size_t size;
  int32_t max_tokens;
  int32_t min_tokens;
  double temperature;         /* 0: the most likely token */
  double top_p;               /* 1: off */
  double min_p;               /* 0: off */
  double typical_p;           /* 1: off */
  int32_t top_k;              /* 0 or -1: off */
  double repetition_penalty;  /* 1: off */
  double presence_penalty;    /* 0: off */
  double frequency_penalty;   /* 0: off */
  uint64_t seed;
  int ignore_eos;
  int skip_special_tokens;
  const char* const* stop; /* texts before which the output ends */
  size_t num_stop;
} heddle_sampling;

/* As SamplingParams of the Python runtime: temperature 1, 16 tokens, seed 0. */
HEDDLE_API void heddle_sampling_default(heddle_sampling* sampling);

/* A prompt: token ids, or a text where ids is NULL (then tokenized with the model's special tokens). */
typedef struct heddle_prompt {
  const char* text;
  size_t text_length;
  const int32_t* ids;
  size_t num_ids;
} heddle_prompt;

typedef enum heddle_finish {
  HEDDLE_RUNNING = 0,
  HEDDLE_STOP = 1,   /* an end token or a stop text */
  HEDDLE_LENGTH = 2, /* max_tokens, or the end of the context */
  HEDDLE_ABORTED = 3 /* the callback said so */
} heddle_finish;

/* One new token of a sequence. Text comes when it is certain: a piece may be empty, and the last one may have more than the
 * token's own. Pointers are valid during the callback. */
typedef struct heddle_event {
  size_t index;   /* which prompt */
  int32_t token;  /* -1 where only text or an end is told */
  const char* text;
  size_t text_length;
  heddle_finish finish;
} heddle_event;

/* Give 0 to go on, anything else to end this sequence. It may read the model and tokenize with it, but neither generate with it
 * nor close it. */
typedef int (*heddle_on_event)(void* context, const heddle_event* event);

typedef struct heddle_stats {
  size_t size;
  uint64_t prompt_tokens;
  uint64_t generated_tokens;
  double prefill_seconds; /* steps that served prompt tokens */
  double decode_seconds;  /* steps of one token for each sequence */
  double first_token_seconds; /* from the call to the first event of the first prompt */
} heddle_stats;

/* Go on from `count` prompts at once, batched continuously over the paged cache. `sampling` is one for each prompt, or one for
 * all where `sampling_count` is 1. `stats` may be NULL; `stats->size` is set by the caller. What is wrong with any prompt is
 * found before work starts. A sequence's tokens do not depend on the others; an error while they are generated ends all. */
HEDDLE_API heddle_status heddle_generate(heddle_model* model, const heddle_prompt* prompts, size_t count,
                                         const heddle_sampling* sampling, size_t sampling_count,
                                         heddle_on_event on_event, void* context, heddle_stats* stats);

#ifdef __cplusplus
}
#endif

#endif /* HEDDLE_H_ */
