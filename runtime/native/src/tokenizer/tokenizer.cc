#include "tokenizer.h"

#include "../error.h"
#include "added_tokens.h"
#include "decoder.h"
#include "length.h"
#include "model.h"
#include "normalizer.h"
#include "post_processor.h"
#include "pre_tokenizer.h"
#include "utf8.h"

namespace heddle {

struct Tokenizer::Rules {
  explicit Rules(const Rule& file)
      : model(Model::read(file.field("model"))),
        normalizers(read_normalizers(file.optional("normalizer"))),
        pre_tokenizers(read_pre_tokenizers(file.optional("pre_tokenizer"))),
        added(file.optional("added_tokens"), model->vocabulary(), normalizers),
        templates(read_post_processors(file.optional("post_processor"))),
        decoders(read_decoders(file.optional("decoder"))) {}

  // The token as decoding has it; nothing for an id that is not known.
  std::optional<std::string_view> text(int32_t id) const {
    if (const std::string* found = added.text(id)) return *found;
    if (model->vocabulary().has(id)) return model->vocabulary().token(id);
    return std::nullopt;
  }

  // Runs the pre-tokenizers from `step` on, then the model.
  void tokenize(Piece piece, size_t step, std::vector<int32_t>& ids) const {
    check_length(piece.text.size());
    if (step == pre_tokenizers.size()) return model->tokenize(piece.text, ids);
    pre_tokenizers[step]->run(piece, [this, step, &ids](Piece part) { tokenize(part, step + 1, ids); });
  }

  // A part of the text that has no added token which stands in texts as they come.
  void encode_part(std::string_view part, bool at_start, std::vector<int32_t>& ids) const {
    NormalText normal{std::string(part), at_start};
    for (const auto& step : normalizers) {
      step->apply(normal);
      check_length(normal.text.size());
    }
    std::string_view text = normal.text;
    added.find(text, true, [&](size_t start, size_t end, int32_t id) {
      if (id != kNone) {
        ids.push_back(id);
      } else {
        tokenize({text.substr(start, end - start), normal.at_start && start == 0}, 0, ids);
      }
    });
  }

  std::unique_ptr<Model> model;
  Normalizers normalizers;
  PreTokenizers pre_tokenizers;
  AddedTokens added;
  std::vector<Template> templates;
  Decoders decoders;
};

Tokenizer::Tokenizer() = default;
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& directory) {
  std::string path = directory + "/tokenizer.json";
  simdjson::padded_string text;
  if (simdjson::error_code error = simdjson::padded_string::load(path).get(text)) {
    throw bad_artifact(path + " cannot be read", simdjson::error_message(error), kCopyArtifact);
  }
  return from_json(text, "tokenizer.json");
}

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view json, const std::string& name) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (simdjson::error_code error = parser.parse(json.data(), json.size()).get(root)) {
    throw bad_artifact(name + " is not JSON", simdjson::error_message(error), kCopyAgain);
  }
  std::unique_ptr<Tokenizer> made(new Tokenizer());
  made->rules_ = std::make_unique<const Rules>(Rule(root, name));
  return made;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  check_length(text.size());
  std::string whole;
  if (!is_utf8(text)) {
    whole = repaired(text);
    text = whole;
  }
  std::vector<int32_t> ids;
  rules_->added.find(text, false, [&](size_t start, size_t end, int32_t id) {
    if (id != kNone) {
      ids.push_back(id);
    } else {
      rules_->encode_part(text.substr(start, end - start), start == 0, ids);
    }
  });
  for (const Template& frame : rules_->templates) ids = frame.apply(ids, add_special);
  return ids;
}

std::string Tokenizer::decode(const int32_t* ids, size_t count, bool skip_special) const {
  std::vector<std::string> tokens;
  for (size_t i = 0; i < count; ++i) {
    std::optional<std::string_view> text = rules_->text(ids[i]);
    if (text && !(skip_special && rules_->added.is_special(*text))) tokens.emplace_back(*text);
  }
  return rules_->decoders.run(std::move(tokens));
}

int32_t Tokenizer::token_id(std::string_view token) const {
  int32_t id = rules_->added.find(token);
  return id == kNone ? rules_->model->vocabulary().find(token) : id;
}

bool Tokenizer::is_silent(int32_t token, bool skip_special) const {
  return (skip_special && rules_->added.is_special(token)) || !rules_->text(token);
}

bool Tokenizer::is_byte(int32_t token) const {
  std::optional<std::string_view> text = rules_->decoders.byte_tokens ? rules_->text(token) : std::nullopt;
  return text && text->size() == 6 && text->substr(0, 3) == "<0x" && text->back() == '>';
}

}  // namespace heddle
