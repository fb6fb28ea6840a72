// The bytes of a weight file in memory. Kernels read all of them once a step, which is slower on pages of 4 kB: so the
// file is mapped with advice for huge pages, and copied once where its file system gives too few.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu_features.h"
#include "error.h"
#include "memory_region.h"

namespace heddle {

namespace {

constexpr size_t kHugePage = 2 << 20;
constexpr double kCopyBelow = 0.75;  // share of huge pages under which the file is copied
constexpr size_t kSmall = 32 << 20;  // bytes; these fit the caches and their page tables, so huge pages gain nothing
constexpr size_t kCopyPiece = 32 << 20;
constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, which older headers lack

class File {
 public:
  explicit File(const std::string& path) : path_(path), number_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (number_ < 0) throw bad_artifact(path + ": " + std::strerror(errno));
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(number_); }
  int number() const { return number_; }
  const std::string& path() const { return path_; }
  size_t size() const {
    struct stat status;
    if (fstat(number_, &status) != 0 || status.st_size <= 0) throw bad_artifact(path_ + " is empty", "", kCopyArtifact);
    return static_cast<size_t>(status.st_size);
  }

 private:
  std::string path_;
  int number_;
};

// Part of the region's bytes that stand on huge pages, by the process's own map.
double huge_share(const Region& region) {
  const uint64_t low = reinterpret_cast<uintptr_t>(region.data()), high = low + region.size();
  std::ifstream lines("/proc/self/smaps");
  std::string line;
  uint64_t huge = 0;
  bool inside = false;
  while (std::getline(lines, line)) {
    uint64_t begin, end;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2) {
      inside = begin < high && end > low;
    } else if (inside) {
      std::istringstream words(line);
      std::string name;
      uint64_t kilobytes = 0;
      words >> name >> kilobytes;
      if (name == "FilePmdMapped:" || name == "AnonHugePages:" || name == "ShmemPmdMapped:") huge += kilobytes << 10;
    }
  }
  return static_cast<double>(huge) / static_cast<double>(region.size());
}

bool huge_pages_enabled() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string text;
  std::getline(file, text);
  return text.find("[always]") != std::string::npos || text.find("[madvise]") != std::string::npos;
}

Region map(const File& file) {
  const size_t size = file.size();
  // Writable, as tensors want it, but private: nothing is written.
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.number(), 0);
  if (base == MAP_FAILED) throw no_memory(file.path() + " cannot be mapped: " + std::strerror(errno));
  Region region(base, size, static_cast<uint8_t*>(base), size);
#if defined(__linux__)
  madvise(base, size, MADV_HUGEPAGE);
  madvise(base, size, kPopulateRead);
#endif
  return region;
}

void read_piece(const File& file, uint8_t* out, size_t begin, size_t end) {
  while (begin < end) {
    const ssize_t got = pread(file.number(), out + begin, end - begin, static_cast<off_t>(begin));
    if (got == 0) throw bad_artifact(file.path() + " became shorter while it was read", "", kCopyArtifact);
    if (got < 0 && errno != EINTR) throw failed(file.path() + " cannot be read: " + std::strerror(errno));
    if (got > 0) begin += static_cast<size_t>(got);
  }
}

// The file in anonymous huge pages, read by several threads; page cache is dropped behind them where memory is tight.
Region copy(const File& file) {
  const size_t size = file.size();
  Region region = allocate(size, "a copy of " + file.path());
  const bool tight = available_memory().bytes < 2 * size;
  std::atomic<size_t> next{0};
  std::atomic<bool> broken{false};
  std::vector<std::exception_ptr> errors(std::min<size_t>(4, physical_cores().size()));
  auto work = [&](size_t worker) {
    try {
      for (size_t begin; (begin = next.fetch_add(kCopyPiece)) < size && !broken;) {
        const size_t end = std::min(begin + kCopyPiece, size);
        read_piece(file, region.data(), begin, end);
#if defined(__linux__)
        if (tight)
          posix_fadvise(file.number(), static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
#endif
      }
    } catch (...) {
      errors[worker] = std::current_exception();
      broken = true;
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(errors.size());
  try {
    for (size_t i = 1; i < errors.size(); ++i) threads.emplace_back(work, i);
  } catch (const std::system_error&) {  // where no more threads may be made, fewer will do
  }
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return region;
}

}  // namespace

Region load_file(const std::string& path) {
  const File file(path);
  Region region = map(file);
  const size_t size = region.size();
  if (size < kSmall || !huge_pages_enabled() || huge_share(region) >= kCopyBelow) return region;
  if (size + kHugePage > available_memory().bytes) return region;
  { Region dropped(std::move(region)); }  // before the copy: the peak is one copy, not the copy and the mapping
  return copy(file);
}

}  // namespace heddle
