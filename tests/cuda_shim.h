// What CUDA source needs to run on a CPU as C++: a fiber for each thread of a block, which meet in __syncthreads.
//
// Between two barriers the threads run one after the other, in the order of their numbers or against it: what depends on the
// order gives two results. Threads that wait at different barriers, or that leave others waiting, are counted.

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>

#include <immintrin.h>

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __shared__ static
#define alignas(bytes) __attribute__((aligned(bytes)))  // which C++ does not allow behind `static`
#define __syncthreads() shim::wait(__LINE__)
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short

struct half {
  uint16_t bits;
  half() = default;
  half(float value) : bits(_cvtss_sh(value, 0)) {}  // NOLINT: as in CUDA
  operator float() const { return _cvtsh_ss(bits); }
};

struct Index {
  int x = 0, y = 0, z = 0;
};
static Index threadIdx, blockIdx;

static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
template <typename T>
static inline T max(T a, T b) { return a > b ? a : b; }
template <typename T>
static inline T min(T a, T b) { return a < b ? a : b; }

namespace shim {

constexpr size_t kStack = 16 << 20;  // of address space: local arrays lie there
constexpr int kDone = -1;

struct Fiber {
  ucontext_t context;
  char* stack = nullptr;
  int at = 0;  // the line of the barrier that it waits at
};

static std::vector<Fiber> fibers(64);
static ucontext_t home;
static std::function<void()> body;
static int64_t diverged = 0;
static bool backwards = false;

static inline void wait(int line) {
  int me = threadIdx.x;
  fibers[me].at = line;
  swapcontext(&fibers[me].context, &home);
  threadIdx.x = me;
}

static void run_body() {
  int me = threadIdx.x;
  body();
  fibers[me].at = kDone;
}

static void run_block(int threads) {
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    if (fiber.stack == nullptr) fiber.stack = static_cast<char*>(malloc(kStack));
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &home;
    fiber.at = 0;
    makecontext(&fiber.context, run_body, 0);
  }
  for (bool going = true; going;) {
    going = false;
    for (int i = 0; i < threads; ++i) {
      int t = backwards ? threads - 1 - i : i;
      if (fibers[t].at == kDone) continue;
      threadIdx.x = t;
      swapcontext(&home, &fibers[t].context);
      going = going || fibers[t].at != kDone;
    }
    for (int t = 1; t < threads; ++t) diverged += fibers[t].at != fibers[0].at;
  }
}

static void launch(int64_t blocks, int64_t threads, std::function<void()> kernel) {
  body = std::move(kernel);
  for (int64_t b = 0; b < blocks; ++b) {
    blockIdx.x = static_cast<int>(b);
    run_block(static_cast<int>(threads));
  }
}

// A value of the tvm-ffi calling convention.
struct Any {
  int32_t type;
  uint32_t padding;
  union {
    int64_t number;
    double real;
    void* pointer;
  };
};

}  // namespace shim
