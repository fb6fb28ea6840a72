#include "model.h"

#include <csignal>
#include <exception>
#include <fstream>
#include <string>

namespace heddle_run {
namespace {

volatile std::sig_atomic_t noted_signal = 0;

extern "C" void note_signal(int number) {
  noted_signal = number;
  std::signal(number, SIG_DFL);
}

// What a call's events go to. Exceptions must not cross the library: they wait here until it is back.
struct Receiver {
  const Model::OnEvent& on_event;
  std::exception_ptr thrown;
};

extern "C" int receive(void* context, const heddle_event* event) {
  auto& receiver = *static_cast<Receiver*>(context);
  try {
    receiver.on_event(*event);
  } catch (...) {
    receiver.thrown = std::current_exception();
  }
  return receiver.thrown != nullptr || Interrupts::noted() != 0;
}

}  // namespace

uint64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoull(line.substr(6)) << 10;
  }
  return 0;
}

Interrupts::Interrupts() {
  for (int number : {SIGINT, SIGTERM}) std::signal(number, note_signal);
}

Interrupts::~Interrupts() {
  for (int number : {SIGINT, SIGTERM}) std::signal(number, SIG_DFL);
}

int Interrupts::noted() { return noted_signal; }

Model::Model(const Options& options) {
  const Clock clock;
  heddle_open_options open;
  heddle_open_options_default(&open);
  // These two leave the choice to the machine, in Python too.
  const bool any = options.target.empty() || options.target == "native" || options.target == "portable";
  open.target = any ? nullptr : options.target.c_str();
  open.threads = options.threads;
  open.kv_bytes = options.kv_bytes;
  open.verify = options.verify;
  heddle_model* model = nullptr;
  check(heddle_open(options.model.c_str(), &open, &model));
  model_.reset(model);
  info_.size = sizeof(info_);
  check(heddle_get_info(model, &info_));
  load_seconds_ = clock.seconds();
}

size_t Model::count_tokens(const std::string& text) const {
  size_t count = 0;
  check(heddle_tokenize(model_.get(), text.data(), text.size(), 1, nullptr, 0, &count));
  return count;
}

heddle_stats Model::generate(const std::vector<heddle_prompt>& prompts, const std::vector<heddle_sampling>& sampling,
                             const OnEvent& on_event) {
  heddle_stats stats{};
  stats.size = sizeof(stats);
  Receiver receiver{on_event, nullptr};
  const Interrupts interrupts;
  const heddle_status status = heddle_generate(model_.get(), prompts.data(), prompts.size(), sampling.data(),
                                               sampling.size(), receive, &receiver, &stats);
  if (receiver.thrown) std::rethrow_exception(receiver.thrown);
  check(status);
  return stats;
}

}  // namespace heddle_run
