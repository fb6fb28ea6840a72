/* The smallest program around libheddle: goes on from a prompt, piece by piece.
 *
 *   cc embed.c $(pkg-config --cflags --libs heddle) -o embed
 *   ./embed model.heddle "The command line"
 */
#include <heddle.h>
#include <stdio.h>
#include <string.h>

static int fail(void) {
  fprintf(stderr, "embed: %s\n", heddle_last_error());
  return 1;
}

/* Called for each token; anything but 0 would end the text. */
static int on_event(void* context, const heddle_event* event) {
  (void)context;
  fwrite(event->text, 1, event->text_length, stdout);
  return fflush(stdout);
}

int main(int count, char** arguments) {
  heddle_open_options options;
  heddle_model* model;
  heddle_model_info info = {.size = sizeof(info)};
  heddle_sampling sampling;
  heddle_stats stats = {.size = sizeof(stats)};
  heddle_prompt prompt = {0};
  heddle_status status;

  if (count != 3) {
    fprintf(stderr, "usage: embed ARTIFACT PROMPT\n");
    return 2;
  }
  heddle_open_options_default(&options);
  options.kv_bytes = 256u << 20; /* options may be NULL, too: then the pool holds two full contexts */
  if (heddle_open(arguments[1], &options, &model) != HEDDLE_OK) return fail();
  if (heddle_get_info(model, &info) != HEDDLE_OK) return fail();
  fprintf(stderr, "%s for %s, context of %d tokens\n", info.architecture, info.target, (int)info.context_length);

  heddle_sampling_default(&sampling);
  sampling.temperature = 0; /* the most likely token */
  sampling.max_tokens = 32;
  prompt.text = arguments[2];
  prompt.text_length = strlen(arguments[2]);
  status = heddle_generate(model, &prompt, 1, &sampling, 1, on_event, NULL, &stats);
  if (status != HEDDLE_OK) fail(); /* before the model is closed */
  heddle_close(model);
  if (status != HEDDLE_OK) return 1;
  fprintf(stderr, "\n%d tokens after a prompt of %d\n", (int)stats.generated_tokens, (int)stats.prompt_tokens);
  return 0;
}
