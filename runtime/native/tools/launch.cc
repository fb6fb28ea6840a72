// heddle-run: finds the library with its code, beside itself, and calls it.
//
// The dynamic loader would do so by $ORIGIN, but what that is for a program it reads from /proc, which an empty root
// has not. The kernel tells every program its path, and of libraries that are opened by their path the loader knows
// $ORIGIN.
#include <cstdio>

#if defined(__linux__)
#include <dlfcn.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace {

constexpr char kLibrary[] = "libheddle_cli.so";

void* open_library() {
  const auto* path = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  const std::unique_ptr<char, decltype(&std::free)> real(path ? realpath(path, nullptr) : nullptr, &std::free);
  if (real) {
    const std::string program = real.get();
    const std::string folder = program.substr(0, program.rfind('/') + 1);
    for (const char* beside : {"../lib/", ""}) {
      // The one that is there, so that what is told of a failure is why that one cannot be opened.
      const std::string library = folder + beside + kLibrary;
      if (access(library.c_str(), F_OK) == 0) return dlopen(library.c_str(), RTLD_NOW);
    }
  }
  return dlopen(kLibrary, RTLD_NOW);
}

}  // namespace

int main(int count, char** arguments) {
  void* library = open_library();
  void* symbol = library ? dlsym(library, "heddle_run_main") : nullptr;
  if (!symbol) {
    std::fprintf(
        stderr,
        "heddle-run: its libraries cannot be loaded\n  why: %s\n  fix: keep the folders bin and lib side by side\n",
        dlerror());
    return 1;
  }
  return reinterpret_cast<int (*)(int, char**)>(symbol)(count, arguments);
}
#else
extern "C" int heddle_run_main(int count, char** arguments);

int main(int count, char** arguments) { return heddle_run_main(count, arguments); }
#endif
