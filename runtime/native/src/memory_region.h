// Memory for weights and pages: mapped or anonymous, on huge pages where the system gives them, refused before it runs
// out; as runtime/memory.py.
#ifndef HEDDLE_MEMORY_REGION_H_
#define HEDDLE_MEMORY_REGION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace heddle {

// A mapping of the process, given back at the end. `data` stands at a huge page's boundary where it is anonymous.
class Region {
 public:
  Region() = default;
  Region(void* base, size_t length, uint8_t* data, size_t size)
      : base_(base), length_(length), data_(data), size_(size) {}
  Region(Region&& other) noexcept { *this = std::move(other); }
  Region& operator=(Region&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(length_, other.length_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Region();
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* base_ = nullptr;
  size_t length_ = 0;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Bytes that this process may still take, and what limits it: the machine, or its control group.
struct Available {
  uint64_t bytes;
  std::string by;
};
Available available_memory();

// `size` zeroed bytes on huge pages, taken when they are first touched. Error (no memory), before anything is touched,
// where there are fewer: `what` needs them, `fix` is the advice.
Region allocate(size_t size, const std::string& what, const std::string& fix = "");

// The bytes of a file in memory, in place: mapped, or where that gives too few huge pages copied to anonymous ones.
Region load_file(const std::string& path);

}  // namespace heddle

#endif  // HEDDLE_MEMORY_REGION_H_
