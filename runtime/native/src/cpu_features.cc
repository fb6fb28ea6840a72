#include "cpu_features.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <numeric>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace heddle {

namespace {

#if defined(__x86_64__)

enum Register { kEax, kEbx, kEcx, kEdx };

// What of the extended control register XCR0 must be set before a flag counts: the system saves these registers.
constexpr uint64_t kAny = 0;
constexpr uint64_t kYmm = 0x6;
constexpr uint64_t kZmm = 0xe6;
constexpr uint64_t kTiles = 0x60000;

struct Flag {
  const char* name;
  unsigned leaf, subleaf;
  Register where;
  int bit;
  uint64_t saved;
};

constexpr Flag kFlags[] = {
    {"sse4_2", 1, 0, kEcx, 20, kAny},     {"movbe", 1, 0, kEcx, 22, kAny},      {"popcnt", 1, 0, kEcx, 23, kAny},
    {"avx", 1, 0, kEcx, 28, kYmm},        {"f16c", 1, 0, kEcx, 29, kYmm},       {"fma", 1, 0, kEcx, 12, kYmm},
    {"bmi1", 7, 0, kEbx, 3, kAny},        {"avx2", 7, 0, kEbx, 5, kYmm},        {"bmi2", 7, 0, kEbx, 8, kAny},
    {"avx512f", 7, 0, kEbx, 16, kZmm},    {"avx512dq", 7, 0, kEbx, 17, kZmm},   {"avx512cd", 7, 0, kEbx, 28, kZmm},
    {"avx512bw", 7, 0, kEbx, 30, kZmm},   {"avx512vl", 7, 0, kEbx, 31, kZmm},   {"avx512_vnni", 7, 0, kEcx, 11, kZmm},
    {"avx512_bf16", 7, 1, kEax, 5, kZmm}, {"avx_vnni", 7, 1, kEax, 4, kYmm},    {"amx_tile", 7, 0, kEdx, 24, kTiles},
    {"amx_int8", 7, 0, kEdx, 25, kTiles}, {"amx_bf16", 7, 0, kEdx, 22, kTiles}, {"abm", 0x80000001, 0, kEcx, 5, kAny},
};

uint64_t saved_registers() {
  unsigned registers[4];
  constexpr unsigned kOsxsave = 1u << 27;
  if (!__get_cpuid(1, &registers[0], &registers[1], &registers[2], &registers[3]) || !(registers[kEcx] & kOsxsave)) {
    return 0;
  }
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

std::set<std::string> find_features() {
  const uint64_t saved = saved_registers();
  std::set<std::string> found;
  for (const Flag& flag : kFlags) {
    unsigned registers[4] = {};
    // __get_cpuid_count gives 0 where the CPU has no such leaf; leaf 7 says in eax how many subleaves it has.
    if (flag.subleaf && (!__get_cpuid_count(flag.leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]) ||
                         registers[kEax] < flag.subleaf)) {
      continue;
    }
    if (__get_cpuid_count(flag.leaf, flag.subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
        registers[flag.where] >> flag.bit & 1 && (saved & flag.saved) == flag.saved) {
      found.insert(flag.name);
    }
  }
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

struct Flag {
  const char* name;
  unsigned long entry;  // of the auxiliary vector
  int bit;
};

constexpr Flag kFlags[] = {
    {"fp", AT_HWCAP, 0},       {"asimd", AT_HWCAP, 1},    {"atomics", AT_HWCAP, 8}, {"fphp", AT_HWCAP, 9},
    {"asimdhp", AT_HWCAP, 10}, {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},    {"sve2", AT_HWCAP2, 1},
    {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},
};

std::set<std::string> find_features() {
  std::set<std::string> found;
  for (const Flag& flag : kFlags) {
    if (getauxval(flag.entry) >> flag.bit & 1) found.insert(flag.name);
  }
  return found;
}

#else

std::set<std::string> find_features() { return {}; }

#endif

}  // namespace

const char* architecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "an unknown architecture";
#endif
}

const std::set<std::string>& cpu_features() {
  static const std::set<std::string> found = find_features();
  return found;
}

std::vector<int> physical_cores() {
  std::vector<int> allowed;
#if defined(__linux__)
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &mask)) allowed.push_back(cpu);
    }
  }
#endif
  if (allowed.empty()) {  // another system, or more CPUs than the mask holds
    allowed.resize(std::max(1u, std::thread::hardware_concurrency()));
    std::iota(allowed.begin(), allowed.end(), 0);
  }
  std::vector<int> cores;
  std::set<std::string> seen;
  for (int cpu : allowed) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
    if (seen.insert(siblings).second) cores.push_back(cpu);
  }
  return cores;
}

}  // namespace heddle
