#include "tensor.h"

#include <algorithm>
#include <new>

#include "error.h"
#include "text.h"

namespace heddle {

namespace {

struct Borrowed {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

template <typename T>
constexpr DLDataType kType = {std::is_floating_point_v<T> ? uint8_t{kDLFloat} : uint8_t{kDLInt}, 8 * sizeof(T), 1};

}  // namespace

DLDataType storage_type(const std::string& dtype) {
  struct Named {
    const char* name;
    DLDataType type;
  };
  static constexpr Named kTypes[] = {
      {"float64", {kDLFloat, 64, 1}},     {"float32", {kDLFloat, 32, 1}},     {"float16", {kDLFloat, 16, 1}},
      {"bfloat16", {kDLUInt, 16, 1}},     {"int64", {kDLInt, 64, 1}},         {"int32", {kDLInt, 32, 1}},
      {"int16", {kDLInt, 16, 1}},         {"int8", {kDLInt, 8, 1}},           {"uint64", {kDLUInt, 64, 1}},
      {"uint32", {kDLUInt, 32, 1}},       {"uint16", {kDLUInt, 16, 1}},       {"uint8", {kDLUInt, 8, 1}},
      {"bool", {kDLBool, 8, 1}},          {"float8_e4m3fn", {kDLUInt, 8, 1}}, {"float8_e5m2", {kDLUInt, 8, 1}},
      {"float8_e8m0fnu", {kDLUInt, 8, 1}}};
  for (const Named& known : kTypes) {
    if (dtype == known.name) return known.type;
  }
  throw bad_artifact("the tensor type " + quote(dtype) + " is not known");
}

Tensor borrow(void* data, tvm::ffi::ShapeView shape, DLDataType type) {
  return Tensor::FromNDAlloc(Borrowed{data}, shape, type, DLDevice{kDLCPU, 0});
}

template <typename T>
void Array<T>::Free::operator()(T* data) const {
  ::operator delete (data, std::align_val_t{kAlignment});
}

template <typename T>
void Array<T>::reserve(size_t count) {
  if (count <= capacity_) return;
  T* data = static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{kAlignment}));
  std::fill_n(data, count, T{});
  data_.reset(data);
  capacity_ = count;
}

template <typename T>
Tensor Array<T>::view(std::initializer_list<int64_t> shape) {
  return borrow(data_.get(), tvm::ffi::ShapeView(shape.begin(), shape.size()), kType<T>);
}

template class Array<int32_t>;
template class Array<int64_t>;
template class Array<float>;

}  // namespace heddle
