#include "post_processor.h"

#include <utility>

#include "../error.h"
#include "../text.h"
#include "vocabulary.h"

namespace heddle {

namespace {

int32_t token_id(const Rule& rule) { return static_cast<int32_t>(rule.integer(0, kMostIds - 1)); }

// ["[CLS]", 101]
int32_t named_id(const Rule& rule) {
  std::vector<Rule> two = rule.list();
  if (two.size() != 2) rule.refuse("a token and its id");
  return token_id(two[1]);
}

Template read_template(const Rule& rule) {
  Template found;
  bool has_text = false;  // once, or a few templates in a row would make terabytes of it
  for (const Rule& part : rule.field("single").list()) {
    if (auto sequence = part.optional("Sequence")) {
      if (sequence->field("id").text() != "A") sequence->refuse("the first sequence: there is no second one");
      if (std::exchange(has_text, true)) part.refuse("a special token: the text stands before it already");
      found.parts.push_back({true, {}});
      continue;
    }
    Rule name = part.field("SpecialToken").field("id");
    simdjson::dom::element token;
    Rule tokens = rule.field("special_tokens");
    if (tokens.object().at_key(name.text()).get(token)) {
      throw bad_artifact(name.path() + " is " + quote(name.text()) + ", which special_tokens lacks", "", kCopyAgain);
    }
    Template::Part special{false, {}};
    for (const Rule& id : Rule(token, tokens.path() + "[" + quote(name.text()) + "]").field("ids").list()) {
      special.ids.push_back(token_id(id));
    }
    found.parts.push_back(special);
  }
  return found;
}

void read_into(const Rule& rule, std::vector<Template>& found) {
  std::string_view type = rule.type();
  if (type == "Sequence") {
    for (const Rule& part : rule.field("processors").list()) read_into(part, found);
  } else if (type == "TemplateProcessing") {
    found.push_back(read_template(rule));
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    found.push_back({{{false, {named_id(rule.field("cls"))}}, {true, {}}, {false, {named_id(rule.field("sep"))}}}});
  } else if (type != "ByteLevel") {  // which only trims offsets
    rule.unknown({"Sequence", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"});
  }
}

}  // namespace

std::vector<int32_t> Template::apply(const std::vector<int32_t>& ids, bool add_special) const {
  std::vector<int32_t> out;
  out.reserve(ids.size() + parts.size());
  for (const Part& part : parts) {
    const std::vector<int32_t>& more = part.text ? ids : part.ids;
    if (part.text || add_special) out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

std::vector<Template> read_post_processors(const std::optional<Rule>& rule) {
  std::vector<Template> found;
  if (rule) read_into(*rule, found);
  return found;
}

}  // namespace heddle
