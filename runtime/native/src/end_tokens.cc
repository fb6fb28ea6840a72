#include "end_tokens.h"

#include <optional>
#include <string>

#include "json.h"

namespace heddle {

namespace {

constexpr char kConfig[] = "tokenizer_config.json";
constexpr size_t kMostConfig = 64 << 20;  // bytes

}  // namespace

std::vector<int32_t> end_tokens(const Artifact& artifact, const Tokenizer* tokenizer) {
  if (!artifact.manifest.eos_token_ids.empty()) return artifact.manifest.eos_token_ids;
  if (!tokenizer || !artifact.has(kConfig)) return {};
  const JsonDocument document(read_file(artifact.file(kConfig), kMostConfig), kConfig, kConfig);
  std::optional<Json> token = document.root().find("eos_token");  // a text, or an object with it as `content`
  if (token && !token->is_text()) token = token->find("content");
  if (!token || !token->is_text()) return {};
  const int32_t id = tokenizer->token_id(token->text());
  return id >= 0 ? std::vector<int32_t>{id} : std::vector<int32_t>{};
}

}  // namespace heddle
