// The physical pages of the KV cache that nobody holds.
#ifndef HEDDLE_PAGE_POOL_H_
#define HEDDLE_PAGE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace heddle {

class PagePool {
 public:
  explicit PagePool(int64_t pages) {
    for (int64_t page = pages; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
  }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  // `count` pages; there must be as many.
  std::vector<int32_t> take(int64_t count) {
    std::vector<int32_t> pages(free_.rbegin(), free_.rbegin() + count);
    free_.resize(free_.size() - static_cast<size_t>(count));
    return pages;
  }
  // The last page that comes back goes out first: its memory is the likeliest to be in a cache.
  void give_back(const std::vector<int32_t>& pages) { free_.insert(free_.end(), pages.rbegin(), pages.rend()); }

 private:
  std::vector<int32_t> free_;
};

}  // namespace heddle

#endif  // HEDDLE_PAGE_POOL_H_
