#include "memory_region.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "error.h"
#include "text.h"

namespace heddle {

namespace {

constexpr size_t kHugePage = 2 << 20;

// The number behind `key` at the begin of a line, in a file of /proc or /sys; false where there is none.
bool read_number(const std::string& path, const std::string& key, uint64_t* found) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, key.size(), key) != 0) continue;
    std::istringstream rest(line.substr(key.size()));
    return static_cast<bool>(rest >> *found);
  }
  return false;
}

struct ControlGroup {
  std::string root, folder, ceiling, used, cached;
};

// The control groups that bound memory, of versions 2 and 1, each with its parents.
std::vector<ControlGroup> control_groups() {
  std::vector<ControlGroup> groups;
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    ControlGroup group;
    if (controllers == ",,") {
      group = {"/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file "};
    } else if (controllers.find(",memory,") != std::string::npos) {
      group = {"/sys/fs/cgroup/memory", "", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "};
    } else {
      continue;
    }
    for (std::string path = line.substr(second + 1); !path.empty(); path.resize(path.rfind('/'))) {
      group.folder = group.root + (path == "/" ? "" : path);
      groups.push_back(group);
      if (path.find('/') == std::string::npos) break;
    }
    group.folder = group.root;
    groups.push_back(group);
  }
  return groups;
}

}  // namespace

Region::~Region() {
  if (base_) munmap(base_, length_);
}

Available available_memory() {
  uint64_t free = 0;
  Available found{uint64_t{1} << 62, "the machine's available memory"};
  if (read_number("/proc/meminfo", "MemAvailable:", &free)) found.bytes = free << 10;
  for (const ControlGroup& group : control_groups()) {
    uint64_t ceiling = 0, used = 0, cached = 0;
    if (!read_number(group.folder + "/" + group.ceiling, "", &ceiling)) continue;  // "max" is no number
    if (!read_number(group.folder + "/" + group.used, "", &used)) continue;
    // Page cache counts as used but is given back under pressure.
    read_number(group.folder + "/memory.stat", group.cached, &cached);
    const uint64_t left = ceiling + cached > used ? ceiling + cached - used : 0;
    if (left < found.bytes) found = {left, "the memory limit of control group " + group.folder};
  }
  return found;
}

Region allocate(size_t size, const std::string& what, const std::string& fix) {
  const Available available = available_memory();
  const std::string lacking =
      "no memory for " + what + ": it needs " + size_text(size) + ", " + size_text(available.bytes) + " is available";
  if (size > available.bytes) throw no_memory(lacking, available.by, fix);
  const size_t length = std::max<size_t>(size, 1) + kHugePage;
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw no_memory(lacking, std::string(std::strerror(errno)) + "; " + available.by, fix);
#if defined(MADV_HUGEPAGE)
  madvise(base, length, MADV_HUGEPAGE);  // advice only changes speed
#endif
  const size_t off = reinterpret_cast<uintptr_t>(base) % kHugePage;
  return Region(base, length, static_cast<uint8_t*>(base) + (off ? kHugePage - off : 0), size);
}

}  // namespace heddle
