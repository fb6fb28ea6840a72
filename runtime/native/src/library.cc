#include "library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/error.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "error.h"
#include "text.h"

// Of TVM's runtime: compiled C asks for it by its name, compiled LLVM through a table.
extern "C" void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t bytes, int code, int bits);

namespace heddle {

namespace {

constexpr int kPooledAllocator = 2;        // of TVM's virtual machine
constexpr uint64_t kMostKept = 256 << 20;  // bytes of results of other sizes than the last step's

Error missing(const std::string& path, const char* kind, const std::string& name) {
  return bad_artifact(path + " has no " + kind + " " + quote(name), "manifest and library disagree", "compile again");
}

// A compiled library looks for functions of the ffi and, in C, of the runtime among those that are loaded for
// everybody. Where this runtime was opened by dlopen they are not, until they are opened so once more.
void show(const void* function, const char* library) {
  Dl_info info;
  if (!dladdr(function, &info) || !dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD)) {
    throw failed(std::string(library) + " cannot be shown to compiled code");
  }
}

namespace fs = std::filesystem;

// The library at `path`, also where another one was loaded from there: for dlopen a name stays what it first was.
tvm::ffi::Module load(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::pair<dev_t, ino_t>> loaded;  // the first file of each path
  struct stat status;
  if (stat(path.c_str(), &status) != 0) throw bad_artifact(path + ": " + std::strerror(errno));
  const std::pair<dev_t, ino_t> file(status.st_dev, status.st_ino);
  const std::string name = fs::canonical(path).string();  // absolute: a bare name is looked for in the system's folders
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded.emplace(name, file).first->second == file) return tvm::ffi::Module::LoadFromFile(name);
  std::string folder = (fs::temp_directory_path() / "heddle-XXXXXX").string();
  if (!mkdtemp(folder.data())) {
    throw failed("no temporary folder can be made: " + std::string(std::strerror(errno)),
                 "another library was loaded from " + path + " before, and names of loaded ones last",
                 "set TMPDIR to a folder that can be written, or move the artifact");
  }
  const std::unique_ptr<std::string, void (*)(std::string*)> removed(&folder, [](std::string* made) {
    std::error_code ignored;
    fs::remove_all(*made, ignored);
  });
  const fs::path link = fs::path(folder) / fs::path(name).filename();
  fs::create_symlink(name, link);
  return tvm::ffi::Module::LoadFromFile(link.string());
}

}  // namespace

Library::Library(const std::string& path) : path_(path) {
  show(reinterpret_cast<const void*>(&TVMFFIGetVersion), "libtvm_ffi");
  show(reinterpret_cast<const void*>(&TVMBackendAllocWorkspace), "libtvm_runtime");
  try {
    module_ = load(path);
    auto executable = module_.value()->GetFunction("vm_load_executable", true);
    if (!executable.has_value()) throw missing(path_, "function", "vm_load_executable");
    machine_ = executable.value()().cast<tvm::ffi::Module>();
    auto begin = machine_.value()->GetFunction("vm_initialization");
    if (!begin.has_value()) throw missing(path_, "function", "vm_initialization");
    begin.value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
  } catch (const tvm::ffi::Error& error) {
    throw bad_artifact(path + " cannot be loaded as a compiled library", error.message(), "compile again");
  }
}

Function Library::function(const std::string& name) const {
  const tvm::ffi::Module& machine = machine_.value();
  auto found = machine->ImplementsFunction(name) ? machine->GetFunction(name) : std::nullopt;
  if (!found.has_value()) throw missing(path_, "function", name);
  return found.value();
}

Function Library::kernel(const std::string& name) const {
  auto found = module_.value()->GetFunction(name, true);
  if (!found.has_value()) throw missing(path_, "kernel", name);
  return found.value();
}

Function global_function(const std::string& name) {
  auto found = Function::GetGlobal(name);
  if (!found.has_value()) {
    throw failed("TVM's runtime has no function " + quote(name), "libtvm_runtime is of another version");
  }
  return found.value();
}

ResultMemory::ResultMemory() : clear_(global_function("vm.builtin.memory_manager.clear")) {}

void ResultMemory::expect(uint64_t bytes) {
  if (sizes_.count(bytes)) return;
  if (kept_ + 2 * bytes > kMostKept) {  // two: one is in use while the next is made
    clear_();                           // what is in use stays
    sizes_.clear();
    kept_ = 0;
  }
  sizes_.insert(bytes);
  kept_ += 2 * bytes;
}

}  // namespace heddle
