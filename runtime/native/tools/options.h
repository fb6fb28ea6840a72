// The command line of heddle-run.
#ifndef HEDDLE_TOOLS_OPTIONS_H_
#define HEDDLE_TOOLS_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "heddle.h"

namespace heddle_run {

enum class Job { kGenerate, kInfo, kBench, kVersion, kHelp };

struct Options {
  Options();

  Job job = Job::kGenerate;
  std::string model;
  std::vector<std::string> prompts;  // none: standard input is one
  bool ids = false;                  // prompts and answers are token ids
  bool json = false;

  std::string target;  // "": the best that runs here
  int threads = 0;
  uint64_t kv_bytes = 0;
  bool verify = false;

  heddle_sampling sampling;  // `stop` is filled in by the caller of the library
  std::vector<std::string> stop;
  std::optional<uint64_t> seed;  // none: a random one

  int rounds = 0;            // of a benchmark
  std::vector<int> lengths;  // of its prompts; none: the usual ones that the context holds
  int batch = 1;             // sequences of it
};

// Failure (code kUsage) says what is wrong with the arguments.
Options parse(int count, const char* const* arguments);

// Whether `--json` is among them, also where they cannot be parsed.
bool asks_for_json(int count, const char* const* arguments);

// What --help prints.
std::string usage();

// Token ids separated by commas or white space. Failure for what is none.
std::vector<int32_t> parse_ids(const std::string& text);

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_OPTIONS_H_
