#include "failure.h"

#include <string>
#include <utility>

#include "text.h"

namespace heddle_run {
namespace {

constexpr char kWhy[] = "\n  why: ", kFix[] = "\n  fix: ";

// What stands behind `mark` in `text`, cut off from it.
std::string cut(std::string& text, const char* mark, size_t mark_size) {
  size_t at = text.find(mark);
  if (at == std::string::npos) return "";
  std::string rest = text.substr(at + mark_size);
  text.resize(at);
  return rest;
}

const char* type_of(heddle_status status) {
  switch (status) {
    case HEDDLE_BAD_ARTIFACT:
      return "ArtifactError";
    case HEDDLE_BAD_REQUEST:
      return "RequestError";
    case HEDDLE_NO_MEMORY:
      return "PoolError";
    default:
      return "HeddleError";
  }
}

}  // namespace

Failure Failure::of_library(heddle_status status) {
  std::string what = heddle_last_error();
  std::string fix = cut(what, kFix, sizeof(kFix) - 1);
  std::string why = cut(what, kWhy, sizeof(kWhy) - 1);
  Failure failure(std::move(what), std::move(why), std::move(fix));
  failure.type = type_of(status);
  return failure;
}

std::string Failure::text() const {
  std::string said = message;
  if (!why.empty()) said += kWhy + why;
  if (!fix.empty()) said += kFix + fix;
  return said;
}

std::string Failure::json() const {
  JsonObject error;
  error.add("type", quoted(type)).add("what", quoted(message)).add("why", quoted(why)).add("fix", quoted(fix));
  return JsonObject().add("error", error.text()).text();
}

}  // namespace heddle_run
