// What ends heddle-run before it is done, and what it says of that.
#ifndef HEDDLE_TOOLS_FAILURE_H_
#define HEDDLE_TOOLS_FAILURE_H_

#include <exception>
#include <string>
#include <utility>

#include "heddle.h"

namespace heddle_run {

// Exit codes, as those of the Python command line; 128 + n after signal n.
constexpr int kDone = 0, kFailed = 1, kUsage = 2;

// An error: what happened, why that is a problem, and how to mend it (the last two may be empty).
struct Failure : std::exception {
  explicit Failure(std::string what, std::string why = "", std::string fix = "", int code = kFailed)
      : message(std::move(what)), why(std::move(why)), fix(std::move(fix)), code(code) {}
  // The library's last error on this thread.
  static Failure of_library(heddle_status status);

  const char* what() const noexcept override { return message.c_str(); }
  // For people: the message, and lines of why and fix.
  std::string text() const;
  // For programs: {"error": {"type", "what", "why", "fix"}}.
  std::string json() const;

  std::string message, why, fix;
  int code;
  std::string type = code == kUsage ? "UsageError" : "HeddleError";
};

inline void check(heddle_status status) {
  if (status != HEDDLE_OK) throw Failure::of_library(status);
}

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_FAILURE_H_
