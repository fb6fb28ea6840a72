#include "json.h"

#include <algorithm>

#include "error.h"
#include "text.h"

namespace heddle {

namespace {

constexpr size_t kMostShown = 80;  // bytes of a wrong value that an error shows

Error mismatch(const std::string& path, const std::string& expected, simdjson::dom::element value) {
  std::string found = simdjson::minify(value);
  if (found.size() > kMostShown) found = std::string(start_of(found, kMostShown)) + "...";
  return bad_artifact(path + " must be " + expected + ", found " + found);
}

}  // namespace

std::string Json::text() const {
  std::string_view found;
  if (value_.get_string().get(found)) throw mismatch(path_, "str", value_);
  return std::string(found);
}

int64_t Json::integer(int64_t least, int64_t most) const {
  int64_t found;
  if (!value_.is_int64() || value_.get_int64().get(found)) throw mismatch(path_, "int", value_);
  if (found < least || found > most) {
    throw mismatch(path_, "an int from " + std::to_string(least) + " to " + std::to_string(most), value_);
  }
  return found;
}

std::vector<Json> Json::list() const {
  simdjson::dom::array items;
  if (value_.get_array().get(items)) throw mismatch(path_, "a list", value_);
  std::vector<Json> found;
  for (simdjson::dom::element item : items) {
    found.emplace_back(item, path_ + "[" + std::to_string(found.size()) + "]");
  }
  return found;
}

std::vector<std::string> Json::texts() const {
  std::vector<std::string> found;
  for (const Json& item : list()) found.push_back(item.text());
  return found;
}

std::vector<std::pair<std::string, Json>> Json::entries() const {
  simdjson::dom::object object;
  if (value_.get_object().get(object)) throw mismatch(path_, "an object", value_);
  std::vector<std::pair<std::string, Json>> found;
  for (auto [name, value] : object) {
    found.emplace_back(std::string(name), Json(value, path_ + "[" + quote(name) + "]"));
  }
  std::vector<std::string_view> names;
  for (const auto& entry : found) names.push_back(entry.first);
  std::sort(names.begin(), names.end());
  auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw bad_artifact(path_ + " has " + quote(*twice) + " twice");
  return found;
}

std::optional<Json> Json::find(std::string_view name) const {
  simdjson::dom::element found;
  if (value_.at_key(name).get(found)) return std::nullopt;
  return Json(found, path_ + "." + std::string(name));
}

Fields Json::fields(const std::vector<const char*>& known) const {
  std::vector<std::pair<std::string, Json>> found;
  for (auto& [name, value] : entries()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw bad_artifact(path_ + " has the field " + quote(name) + ", which is not known; known are " +
                         joined({known.begin(), known.end()}));
    }
    found.emplace_back(name, Json(value.value_, path_ + "." + name));
  }
  Fields fields(std::move(found));
  for (const char* name : known) {
    if (!fields.find(name)) throw bad_artifact(path_ + "." + name + " is missing");
  }
  return fields;
}

const Json* Fields::find(std::string_view name) const {
  for (const auto& entry : entries_) {
    if (entry.first == name) return &entry.second;
  }
  return nullptr;
}

const Json& Fields::operator[](std::string_view name) const {
  const Json* found = find(name);
  if (!found) throw failed("no field " + quote(name) + " was asked for when the object was read");
  return *found;
}

JsonDocument::JsonDocument(std::string_view text, const std::string& name, const std::string& path) {
  simdjson::dom::element root;
  if (simdjson::error_code error = parser_.parse(text.data(), text.size()).get(root)) {
    throw bad_artifact(name + " is not JSON", simdjson::error_message(error), kCopyArtifact);
  }
  if (!root.is_object()) throw bad_artifact(name + " is not an object", "", kCopyArtifact);
  root_.emplace_back(root, path);
}

}  // namespace heddle
