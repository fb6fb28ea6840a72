#include "output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

#include "failure.h"
#include "text.h"

namespace heddle_run {
namespace {

bool is_terminal() {
#if defined(_WIN32)
  return _isatty(_fileno(stdout)) != 0;
#else
  return isatty(STDOUT_FILENO) != 0;
#endif
}

}  // namespace

void print(std::string_view text) {
  static const bool terminal = is_terminal();
  std::string shown;
  if (terminal) text = shown = visible(text);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw Failure("standard output cannot be written", std::strerror(errno));
  }
}

}  // namespace heddle_run
