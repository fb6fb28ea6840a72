// Memory that compiled code and the runtime share.
#ifndef HEDDLE_TENSOR_H_
#define HEDDLE_TENSOR_H_

#include <tvm/ffi/container/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace heddle {

constexpr size_t kAlignment = 64;  // bytes; generated code loads whole vectors

using tvm::ffi::Tensor;

// How compiled code takes elements of a tensor file: their own type, or unsigned integers for bfloat16 and 8-bit
// floats. Error for types that no kernel takes.
DLDataType storage_type(const std::string& dtype);

// A tensor over memory that somebody else keeps.
Tensor borrow(void* data, tvm::ffi::ShapeView shape, DLDataType type);

// An aligned vector or matrix of zeros, which only grows; T is int32_t, int64_t or float.
template <typename T>
class Array {
 public:
  T* data() { return data_.get(); }
  size_t capacity() const { return capacity_; }
  // Room for `count` elements; what was there is lost where it grows.
  void reserve(size_t count);
  // A tensor over the first elements. The shape must fit: `reserve` comes before.
  Tensor view(std::initializer_list<int64_t> shape);

 private:
  struct Free {
    void operator()(T* data) const;
  };
  std::unique_ptr<T[], Free> data_;
  size_t capacity_ = 0;
};

extern template class Array<int32_t>;
extern template class Array<int64_t>;
extern template class Array<float>;

}  // namespace heddle

#endif  // HEDDLE_TENSOR_H_
