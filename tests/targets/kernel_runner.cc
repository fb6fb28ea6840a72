// Runs kernels of a shared library on arguments from a file: `kernel_runner LIBRARY CALLS RESULTS`.
//
// CALLS: the number of calls, then for each the function's name (its length first), the number of arguments, and the arguments:
// a byte 0 and an int64, or a byte 1 with a tensor: DLPack's type code, bits, dimensions (one byte each), the shape as int64s, the
// bytes. Other numbers are uint32, all little-endian. RESULTS gets the bytes of all tensors after the calls, in the same order.
// tests/targets/aarch64_kernels.py writes and reads these files.

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace ffi = tvm::ffi;

constexpr size_t kAlignment = 64;

struct HostMemory {
  static size_t size(const DLTensor& tensor) { return ffi::GetDataSize(tensor); }
  void AllocData(DLTensor* tensor) {
    const size_t bytes = (size(*tensor) + kAlignment) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

class Calls {
 public:
  explicit Calls(const char* path) : file_(path, std::ios::binary) { file_.exceptions(std::ios::failbit | std::ios::badbit); }

  template <typename T>
  T number() {
    T value;
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }

  std::string text() {
    std::string value(number<uint32_t>(), '\0');
    file_.read(value.data(), static_cast<std::streamsize>(value.size()));
    return value;
  }

  ffi::Tensor tensor() {
    const auto code = number<uint8_t>(), bits = number<uint8_t>(), dimensions = number<uint8_t>();
    std::vector<int64_t> shape(dimensions);
    for (int64_t& size : shape) size = number<int64_t>();
    const DLDataType dtype{code, bits, 1};
    ffi::Tensor made =
        ffi::Tensor::FromNDAlloc(HostMemory(), ffi::ShapeView(shape.data(), shape.size()), dtype, DLDevice{kDLCPU, 0});
    const DLTensor* raw = made.GetDLTensorPtr();
    file_.read(static_cast<char*>(raw->data), static_cast<std::streamsize>(HostMemory::size(*raw)));
    return made;
  }

 private:
  std::ifstream file_;
};

void run(const char* library, const char* calls_path, const char* results_path) {
  ffi::Module module = ffi::Module::LoadFromFile(library);
  Calls calls(calls_path);
  std::ofstream results(results_path, std::ios::binary);
  results.exceptions(std::ios::failbit | std::ios::badbit);
  for (auto left = calls.number<uint32_t>(); left > 0; --left) {
    const std::string name = calls.text();
    const auto function = module->GetFunction(name);
    if (!function.has_value()) throw std::runtime_error("the library has no function " + name);
    std::vector<ffi::Any> arguments;
    std::vector<ffi::Tensor> tensors;
    for (auto count = calls.number<uint32_t>(); count > 0; --count) {
      if (calls.number<uint8_t>() == 0) {
        arguments.emplace_back(calls.number<int64_t>());
      } else {
        tensors.push_back(calls.tensor());
        arguments.emplace_back(tensors.back());
      }
    }
    std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
    ffi::Any nothing;
    function.value().CallPacked(views.data(), static_cast<int32_t>(views.size()), &nothing);
    for (const ffi::Tensor& tensor : tensors) {
      const DLTensor* raw = tensor.GetDLTensorPtr();
      results.write(static_cast<const char*>(raw->data), static_cast<std::streamsize>(HostMemory::size(*raw)));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s LIBRARY CALLS RESULTS\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}
