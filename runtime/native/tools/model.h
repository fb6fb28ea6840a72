// The model of one run, and how it is asked.
#ifndef HEDDLE_TOOLS_MODEL_H_
#define HEDDLE_TOOLS_MODEL_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"
#include "heddle.h"
#include "options.h"

namespace heddle_run {

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The most memory that this process ever had, in bytes, mapped files included; 0 where the system does not say.
uint64_t peak_memory();

// A signal that asks to stop while one of these lives: the first is noted, the second ends the program.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  // Its number, 0 before there is one.
  static int noted();
};

// An open artifact. Its functions throw Failure.
class Model {
 public:
  using OnEvent = std::function<void(const heddle_event&)>;

  explicit Model(const Options& options);

  const heddle_model_info& info() const { return info_; }
  double load_seconds() const { return load_seconds_; }
  size_t count_tokens(const std::string& text) const;
  // Until all prompts are done, or a signal comes.
  heddle_stats generate(const std::vector<heddle_prompt>& prompts, const std::vector<heddle_sampling>& sampling,
                        const OnEvent& on_event);

 private:
  struct Close {
    void operator()(heddle_model* model) const { heddle_close(model); }
  };
  std::unique_ptr<heddle_model, Close> model_;
  heddle_model_info info_{};
  double load_seconds_ = 0;
};

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_MODEL_H_
