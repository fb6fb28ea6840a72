#include "rule.h"

#include <algorithm>

#include "../error.h"
#include "../text.h"
#include "utf8.h"

namespace heddle {

namespace {

std::string shown(simdjson::dom::element value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string_view text;
  return value.get_string().get(text) ? std::string(simdjson::minify(value)) : quote(text);
}

}  // namespace

void Rule::refuse(const std::string& must) const {
  throw bad_artifact(path_ + " must be " + must + ", found " + shown(value_), "", kCopyAgain);
}

void Rule::unknown(const std::vector<std::string_view>& known) const {
  throw bad_artifact(path_ + ".type is " + quote(type()) + ", which the native tokenizer does not know",
                     "known are " + joined({known.begin(), known.end()}), "run this model by the Python runtime");
}

Rule Rule::field(const char* name) const {
  std::optional<Rule> found = optional(name);
  if (!found) throw bad_artifact(path_ + "." + name + " is missing", "", kCopyAgain);
  return *found;
}

std::optional<Rule> Rule::optional(const char* name) const {
  simdjson::dom::element found;
  if (object().at_key(name).get(found) || found.is_null()) return std::nullopt;
  return Rule(found, path_ + "." + name);
}

std::string_view Rule::text() const {
  std::string_view found;
  if (value_.get_string().get(found)) refuse("a text");
  return found;
}

bool Rule::flag() const {
  bool found;
  if (value_.get_bool().get(found)) refuse("true or false");
  return found;
}

double Rule::number() const {
  double found;
  if (value_.get_double().get(found)) refuse("a number");
  return found;
}

int64_t Rule::integer(int64_t least, int64_t most) const {
  int64_t found;
  if (!value_.is_int64() || value_.get_int64().get(found) || found < least || found > most) {
    refuse("an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return found;
}

uint32_t Rule::character() const {
  std::string_view found = text();
  if (found.empty() || character_at(found, 0).size != found.size()) refuse("one character");
  return character_at(found, 0).code;
}

std::vector<Rule> Rule::list() const {
  simdjson::dom::array items;
  if (value_.get_array().get(items)) refuse("a list");
  std::vector<Rule> found;
  for (simdjson::dom::element item : items) found.emplace_back(item, path_ + "[" + std::to_string(found.size()) + "]");
  return found;
}

simdjson::dom::object Rule::object() const {
  simdjson::dom::object found;
  if (value_.get_object().get(found)) refuse("an object");
  return found;
}

size_t Rule::one_of(const std::vector<std::string_view>& names) const {
  auto found = std::find(names.begin(), names.end(), text());
  if (found == names.end()) refuse("one of " + joined({names.begin(), names.end()}));
  return static_cast<size_t>(found - names.begin());
}

}  // namespace heddle
