#include "thread_pool.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>

#include "cpu_features.h"
#include "error.h"
#include "library.h"
#include "text.h"

namespace heddle {

namespace {
constexpr int kMostThreads = 4096;
}

int thread_count(int threads) {
  if (threads == 0) {
    const char* text = std::getenv("TVM_NUM_THREADS");
    if (!text) return static_cast<int>(physical_cores().size());
    const std::string number = text;
    const auto read = std::from_chars(number.data(), number.data() + number.size(), threads);
    if (read.ec != std::errc() || read.ptr != number.data() + number.size() || threads == 0) {
      throw bad_request("TVM_NUM_THREADS=" + quote(number) + " is not a number of threads", "",
                        "unset it, or set it to 1 or more");
    }
  }
  if (threads < 1 || threads > kMostThreads) {
    throw bad_request("threads=" + std::to_string(threads) + " is not possible", "",
                      "give 1 or more, or 0 for the physical cores");
  }
  return threads;
}

void set_threads(int count) {
  // TVM would pin its workers to the first cores of the machine, whatever the affinity mask says; they inherit the mask
  // of the process instead. Its code reads the environment at any time, so this is written once.
  static const int written = setenv("TVM_BIND_THREADS", "0", 1);
  if (written != 0) throw failed("TVM_BIND_THREADS cannot be set in the environment");
  // A thread's pool is made with as many threads as this list has, which is otherwise of no use, as nothing is pinned.
  // It never grows, so it has one for each core (more if `count` is more); those that are not used sleep.
  tvm::ffi::Array<tvm::ffi::String> cores;
  const int most = std::max<int>(count, static_cast<int>(physical_cores().size()));
  for (int core = 0; core < most; ++core) cores.push_back(std::to_string(core));
  constexpr int kBigCores = 1;  // a preference
  global_function("runtime.config_threadpool")(kBigCores, count, cores);
  const int found = global_function("runtime.NumThreads")().cast<int>();
  if (found < count) {
    throw bad_request(
        "threads=" + std::to_string(count) + " is not possible here: this thread's pool has " + std::to_string(found),
        "TVM's pool was made with that many when this thread first called compiled code, and it never grows",
        "ask for the largest count first, or use another thread");
  }
}

}  // namespace heddle
