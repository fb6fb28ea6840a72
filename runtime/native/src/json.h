// JSON with a schema: an unknown, missing or mistyped field is an error that names it by its path, as
// runtime/json_schema.py.
#ifndef HEDDLE_JSON_H_
#define HEDDLE_JSON_H_

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace heddle {

class Fields;

// A value and its path. It belongs to a JsonDocument, which must outlive it.
class Json {
 public:
  Json(simdjson::dom::element value, std::string path) : value_(value), path_(std::move(path)) {}
  const std::string& path() const { return path_; }

  // The value as what it must be. Error (bad artifact) where it is something else, or out of bounds.
  std::string text() const;
  int64_t integer(int64_t least, int64_t most) const;
  bool is_text() const { return value_.is_string(); }
  // A field of an object that may not be there, or nothing where this is no object.
  std::optional<Json> find(std::string_view name) const;
  std::vector<Json> list() const;
  std::vector<std::string> texts() const;
  // The values of an object whose names are data, with these names. A name may stand once.
  std::vector<std::pair<std::string, Json>> entries() const;
  // An object whose names are `known`: all of them, no others, each once.
  Fields fields(const std::vector<const char*>& known) const;

 private:
  simdjson::dom::element value_;
  std::string path_;
};

// The fields of an object by name.
class Fields {
 public:
  explicit Fields(std::vector<std::pair<std::string, Json>> entries) : entries_(std::move(entries)) {}
  // nullptr where there is no such field.
  const Json* find(std::string_view name) const;
  // A field that `Json::fields` has found to be there.
  const Json& operator[](std::string_view name) const;

 private:
  std::vector<std::pair<std::string, Json>> entries_;
};

// A parsed text; the memory of its values.
class JsonDocument {
 public:
  // `name` is the file in errors, `path` the root of the values' paths.
  JsonDocument(std::string_view text, const std::string& name, const std::string& path);
  const Json& root() const { return root_.front(); }

 private:
  simdjson::dom::parser parser_;
  std::vector<Json> root_;
};

}  // namespace heddle

#endif  // HEDDLE_JSON_H_
