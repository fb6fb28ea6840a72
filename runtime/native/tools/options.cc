#include "options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "failure.h"

namespace heddle_run {
namespace {

constexpr char kHelp[] = "heddle-run --help";

struct Option {
  const char* name;
  const char* value;  // what it is called in the help; "": a flag
  const char* help;
  void (*set)(Options&, const std::string&);
};

[[noreturn]] void refuse(const std::string& what, const std::string& why = "") {
  throw Failure(what, why, kHelp, kUsage);
}

// A whole number from `least` to `most`.
template <typename T>
T whole(const std::string& text, T least, T most = std::numeric_limits<T>::max()) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    const bool open = most == std::numeric_limits<T>::max() && error != std::errc::result_out_of_range;
    refuse("it is '" + text + "'",
           "it must be a whole number, " + std::to_string(least) + (open ? " or more" : " to " + std::to_string(most)));
  }
  return value;
}

double real(const std::string& text) {
  double value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) refuse("it is '" + text + "'", "it must be a number");
  return value;
}

// Bytes of "512MiB", "2GB", "1.5 GiB", "1000".
uint64_t bytes(const std::string& text) {
  struct Unit {
    std::string_view name;
    double size;
  };
  constexpr Unit kUnits[] = {{"", 1},     {"b", 1},        {"kb", 1e3},        {"mb", 1e6},
                             {"gb", 1e9}, {"kib", 1024.0}, {"mib", 1048576.0}, {"gib", 1073741824.0}};
  double value{};
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  std::string unit;
  for (char c : std::string_view(text).substr(static_cast<size_t>(stop - text.data()))) {
    if (c != ' ') unit += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  const auto* found = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& u) { return u.name == unit; });
  const double size = error == std::errc() && found != std::end(kUnits) ? value * found->size : 0;
  if (!(size >= 1 && size < 0x1p63)) refuse("it is '" + text + "'", "it must be a size, such as 512MiB or 2GB");
  return static_cast<uint64_t>(size);
}

std::vector<int> lengths(const std::string& text) {
  std::vector<int> found;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    found.push_back(whole<int>(text.substr(at, comma - at), 1));
    at = comma + 1;
  }
  return found;
}

using O = Options;
using Text = const std::string&;
constexpr Option kOptions[] = {
    {"--max-tokens", "N", "Most tokens to generate (default: 128).",
     [](O& o, Text v) { o.sampling.max_tokens = whole<int32_t>(v, 1); }},
    {"--temperature", "T", "0 takes the likeliest token (default: 0.7).",
     [](O& o, Text v) { o.sampling.temperature = real(v); }},
    {"--top-p", "P", "Fewest tokens that reach this probability (default: 1).",
     [](O& o, Text v) { o.sampling.top_p = real(v); }},
    {"--top-k", "K", "The likeliest tokens only; 0 (the default) or -1 keeps all.",
     [](O& o, Text v) { o.sampling.top_k = whole<int32_t>(v, -1); }},
    {"--min-p", "P", "As likely as this share of the likeliest (default: 0).",
     [](O& o, Text v) { o.sampling.min_p = real(v); }},
    {"--typical-p", "P", "Locally typical sampling; 1 keeps all (default).",
     [](O& o, Text v) { o.sampling.typical_p = real(v); }},
    {"--repetition-penalty", "X", "Over 1 repeats less (default: 1).",
     [](O& o, Text v) { o.sampling.repetition_penalty = real(v); }},
    {"--presence-penalty", "X", "Taken from tokens that came (default: 0).",
     [](O& o, Text v) { o.sampling.presence_penalty = real(v); }},
    {"--frequency-penalty", "X", "The same, each time that they came (default: 0).",
     [](O& o, Text v) { o.sampling.frequency_penalty = real(v); }},
    {"--seed", "N", "The same seed gives the same text (default: a random one).",
     [](O& o, Text v) { o.seed = whole<uint64_t>(v, 0); }},
    {"--stop", "TEXT", "End before this text; may be given several times.", [](O& o, Text v) { o.stop.push_back(v); }},
    {"--min-tokens", "N", "Tokens before which the text does not end (default: 0).",
     [](O& o, Text v) { o.sampling.min_tokens = whole<int32_t>(v, 0); }},
    {"--ignore-eos", "", "Go on after the model's end tokens.", [](O& o, Text) { o.sampling.ignore_eos = 1; }},
    {"--ids", "", "Prompts and answers are token ids, as in 5,6,7.", [](O& o, Text) { o.ids = true; }},
    {"--json", "", "Print one JSON object instead of streaming.", [](O& o, Text) { o.json = true; }},
    {"--target", "NAME", "The library to run (default: the best that this CPU can run).",
     [](O& o, Text v) { o.target = v; }},
    {"--threads", "N", "Threads (default: TVM_NUM_THREADS, else the physical cores).",
     [](O& o, Text v) { o.threads = whole<int>(v, 1); }},
    {"--kv-memory", "SIZE", "KV pool: 2GB, 512MiB (default: two full contexts, where they fit).",
     [](O& o, Text v) { o.kv_bytes = bytes(v); }},
    {"--verify", "", "Check the hash of every file, also of the weights.", [](O& o, Text) { o.verify = true; }},
    {"--info", "", "Show what the artifact holds and how it would run here.", [](O& o, Text) { o.job = Job::kInfo; }},
    {"--bench", "ROUNDS", "Measure tokens per second; medians of so many rounds.",
     [](O& o, Text v) { o.job = Job::kBench, o.rounds = whole<int>(v, 1, 1000); }},
    {"--lengths", "N,N", "Prompts of the benchmark, in tokens (default: 128, 512 and 2048, where they fit).",
     [](O& o, Text v) { o.lengths = lengths(v); }},
    {"--batch", "N", "Sequences of the benchmark at a time (default: 1).",
     [](O& o, Text v) { o.batch = whole<int>(v, 1, 4096); }},
    {"--version", "", "Show the version.", [](O& o, Text) { o.job = Job::kVersion; }},
    {"--help", "", "Show this.", [](O& o, Text) { o.job = Job::kHelp; }},
};

const Option& find(const std::string& name) {
  for (const Option& option : kOptions) {
    if (option.name == name) return option;
  }
  refuse("there is no option " + name, "a prompt that begins with a dash stands behind --");
}

void apply(const Option& option, Options& options, const std::string& value) {
  try {
    option.set(options, value);
  } catch (const Failure& failure) {
    throw Failure(std::string(option.name) + ": " + failure.what(), failure.why, failure.fix, failure.code);
  }
}

}  // namespace

Options::Options() {
  heddle_sampling_default(&sampling);
  sampling.max_tokens = 128;
  sampling.temperature = 0.7;
}

Options parse(int count, const char* const* arguments) {
  Options options;
  std::vector<std::string> places;
  for (int i = 1; i < count; ++i) {
    std::string name = arguments[i];
    if (name == "--") {
      places.insert(places.end(), arguments + i + 1, arguments + count);
      break;
    }
    if (name.size() < 2 || name[0] != '-') {
      places.push_back(std::move(name));
      continue;
    }
    const size_t equals = name.find('=');
    const Option& option = find(name == "-h" ? "--help" : name.substr(0, equals));
    const bool flag = option.value[0] == '\0', given = equals != std::string::npos;
    if (flag && given) refuse(std::string(option.name) + " takes no value");
    if (!flag && !given && i + 1 == count) refuse(std::string(option.name) + " needs a value");
    apply(option, options, flag ? "" : given ? name.substr(equals + 1) : arguments[++i]);
  }
  if (options.job == Job::kVersion || options.job == Job::kHelp) return options;
  if (places.empty()) refuse("no artifact is given");
  options.model = places[0];
  options.prompts.assign(places.begin() + 1, places.end());
  if (options.job != Job::kGenerate && !options.prompts.empty()) refuse("--info and --bench take no prompt");
  return options;
}

bool asks_for_json(int count, const char* const* arguments) {
  for (int i = 1; i < count && std::string_view(arguments[i]) != "--"; ++i) {
    if (std::string_view(arguments[i]) == "--json") return true;
  }
  return false;
}

std::string usage() {
  std::string text =
      "Usage: heddle-run [OPTIONS] ARTIFACT [PROMPT ...]\n\n"
      "Generate from each PROMPT (or from standard input) with ARTIFACT, a directory that `heddle compile` made.\n"
      "Several prompts are served together, and their answers are printed in their order.\n\n"
      "Options:\n";
  for (const Option& option : kOptions) {
    std::string left = std::string("  ") + option.name + " " + option.value;
    left.resize(std::max<size_t>(left.size() + 1, 27), ' ');
    text += left + option.help + "\n";
  }
  return text;
}

std::vector<int32_t> parse_ids(const std::string& text) {
  constexpr char kBetween[] = ", \t\r\n";
  std::vector<int32_t> ids;
  for (size_t at = text.find_first_not_of(kBetween); at != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    try {
      ids.push_back(whole<int32_t>(text.substr(at, end - at), 0));
    } catch (const Failure& failure) {
      throw Failure("a token id of a prompt: " + std::string(failure.what()), failure.why, "give ids as in 5,6,7");
    }
    at = text.find_first_not_of(kBetween, end);
  }
  return ids;
}

}  // namespace heddle_run
