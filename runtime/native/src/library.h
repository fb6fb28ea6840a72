// The compiled functions of an artifact behind TVM's ffi; as runtime/tvm.py.
#ifndef HEDDLE_LIBRARY_H_
#define HEDDLE_LIBRARY_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/optional.h>

#include <cstdint>
#include <set>
#include <string>

namespace heddle {

using tvm::ffi::Function;

// A library and its virtual machine on the CPU. One thread at a time may call what it gives.
class Library {
 public:
  // Error where the file is no library of compiled functions.
  explicit Library(const std::string& path);
  // A function of the virtual machine: takes and gives tensors. Error where the library has none of this name.
  Function function(const std::string& name) const;
  // A kernel by itself: fills the tensors that it is given.
  Function kernel(const std::string& name) const;

 private:
  std::string path_;
  tvm::ffi::Optional<tvm::ffi::Module> module_, machine_;
};

// A function of TVM's runtime; Error where it has none of this name.
Function global_function(const std::string& name);

// Bounds the memory that results of compiled functions leave behind. TVM keeps what is freed for results of the same
// size alone, and for ever; so all of it is given back now and then.
class ResultMemory {
 public:
  ResultMemory();
  // A result of `bytes` comes next.
  void expect(uint64_t bytes);

 private:
  Function clear_;
  std::set<uint64_t> sizes_;
  uint64_t kept_ = 0;
};

}  // namespace heddle

#endif  // HEDDLE_LIBRARY_H_
