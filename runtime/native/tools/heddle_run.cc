// heddle-run: an artifact's text on the command line. No Python, no compiler.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "bench.h"
#include "failure.h"
#include "generate.h"
#include "heddle.h"
#include "model.h"
#include "options.h"
#include "output.h"
#include "text.h"

namespace heddle_run {
namespace {

void show_info(const Options& options) {
  const Model model(options);
  const heddle_model_info& info = model.info();
  struct Field {
    const char* name;
    std::string value;
    bool text;
  };
  const Field fields[] = {
      {"architecture", info.architecture, true},
      {"target", info.target, true},
      {"vocab_size", std::to_string(info.vocab_size), false},
      {"context_length", std::to_string(info.context_length), false},
      {"max_tokens", std::to_string(info.max_tokens), false},
      {"max_seqs", std::to_string(info.max_seqs), false},
      {"page_tokens", std::to_string(info.page_tokens), false},
      {"num_pages", std::to_string(info.num_pages), false},
      {"threads", std::to_string(info.threads), false},
      {"weights_bytes", std::to_string(info.weights_bytes), false},
      {"kv_bytes", std::to_string(info.kv_bytes), false},
      {"load_seconds", number(model.load_seconds()), false},
      {"peak_memory", std::to_string(peak_memory()), false},
  };
  JsonObject json;
  std::string lines;
  for (const Field& field : fields) {
    std::string name = field.name;
    json.add(name, field.text ? quoted(field.value) : field.value);
    name.resize(16, ' ');
    lines += name + field.value + "\n";
  }
  print(options.json ? json.text() + "\n" : lines);
}

void run(const Options& options) {
  switch (options.job) {
    case Job::kHelp:
      return print(usage());
    case Job::kVersion:
      return print(std::string("heddle-run ") + heddle_version() + "\n");
    case Job::kInfo:
      return show_info(options);
    case Job::kBench:
      return bench(options);
    case Job::kGenerate:
      return generate(options);
  }
}

int run(int count, const char* const* arguments) {
  try {
    run(parse(count, arguments));
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Failure*>(&error);
    const Failure failure = known ? *known : Failure(error.what(), "no part of Heddle has foreseen this error");
    // Artifacts bring names and texts of their own into messages.
    std::fprintf(stderr, "heddle-run: %s\n", visible(failure.text()).c_str());
    if (asks_for_json(count, arguments)) std::printf("%s\n", failure.json().c_str());
    return failure.code;
  }
  // Who asked a command to stop does not hear of success, even where it could still finish.
  return Interrupts::noted() ? 128 + Interrupts::noted() : kDone;
}

}  // namespace
}  // namespace heddle_run

// All that the program does; launch.cc calls it.
extern "C" HEDDLE_API int heddle_run_main(int count, char** arguments) {
  const int code = heddle_run::run(count, arguments);
#if defined(HEDDLE_SANITIZED)
  return code;  // leaks are looked for behind this
#else
  // The threads of compiled code look for work for a third of a second before they sleep, and leaving as usual waits
  // for them.
  std::fflush(nullptr);
  std::_Exit(code);
#endif
}
