// Errors that say what is wrong, why it matters and how to mend it; as runtime/errors.py.
#ifndef HEDDLE_ERROR_H_
#define HEDDLE_ERROR_H_

#include <exception>
#include <string>
#include <utility>

#include "heddle.h"

namespace heddle {

class Error : public std::exception {
 public:
  // `why` and `fix` may be empty. `status` is what the C API gives for it.
  Error(heddle_status status, std::string what, const std::string& why = "", const std::string& fix = "")
      : status_(status), text_(std::move(what)) {
    if (!why.empty()) text_ += "\n  why: " + why;
    if (!fix.empty()) text_ += "\n  fix: " + fix;
  }
  const char* what() const noexcept override { return text_.c_str(); }
  heddle_status status() const { return status_; }

 private:
  heddle_status status_;
  std::string text_;
};

inline Error bad_artifact(std::string what, const std::string& why = "", const std::string& fix = "") {
  return Error(HEDDLE_BAD_ARTIFACT, std::move(what), why, fix);
}

inline Error bad_request(std::string what, const std::string& why = "", const std::string& fix = "") {
  return Error(HEDDLE_BAD_REQUEST, std::move(what), why, fix);
}

inline Error no_memory(std::string what, const std::string& why = "", const std::string& fix = "") {
  return Error(HEDDLE_NO_MEMORY, std::move(what), why, fix);
}

inline Error failed(std::string what, const std::string& why = "", const std::string& fix = "") {
  return Error(HEDDLE_FAILED, std::move(what), why, fix);
}

// How to mend what is wrong with a file of an artifact.
constexpr const char* kCopyArtifact = "copy the artifact again, or compile again";

}  // namespace heddle

#endif  // HEDDLE_ERROR_H_
