#include "pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "../error.h"
#include "../text.h"

namespace heddle {

namespace {

struct FreeData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

// Place for a match; only where it begins and ends is asked for, so one serves all patterns of a thread.
pcre2_match_data* match_data() {
  thread_local std::unique_ptr<pcre2_match_data, FreeData> data(pcre2_match_data_create(1, nullptr));
  if (!data) throw no_memory("there is no memory to match a regular expression");
  return data.get();
}

struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// PCRE2 bounds the steps of a match by itself, but their memory only by 20 GB.
pcre2_match_context* limits() {
  constexpr uint32_t kMostHeap = 1 << 20;  // kilobytes
  static const std::unique_ptr<pcre2_match_context, FreeContext> context = [] {
    std::unique_ptr<pcre2_match_context, FreeContext> made(pcre2_match_context_create(nullptr));
    if (!made) throw no_memory("there is no memory to match a regular expression");
    pcre2_set_heap_limit(made.get(), kMostHeap);
    return made;
  }();
  return context.get();
}

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Regex::Regex(std::string_view pattern, const std::string& path) : path_(path) {
  std::string text = pcre2_pattern(pattern, path);
  int error;
  PCRE2_SIZE at;
  // ^ and $ are those of lines, as in Oniguruma.
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr));
  if (!code_) {
    throw bad_artifact(path + " is " + quote(pattern) + ", a regular expression that cannot be used", message(error),
                       kCopyAgain);
  }
  pcre2_jit_compile(code_.get(),
                    PCRE2_JIT_COMPLETE);  // where memory may not be made executable, matches are found without
}

bool Regex::search(std::string_view text, size_t from, size_t* start, size_t* end) const {
  pcre2_match_data* data = match_data();
  auto run = [&](uint32_t options) {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, options, data,
                       limits());
  };
  int found = run(PCRE2_NO_UTF_CHECK);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0)
    throw bad_request("the text cannot be cut by the tokenizer's " + path_, message(found), "give a shorter text");
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(data);
  *start = place[0], *end = place[1];
  if (*start < from || *end < *start)
    throw bad_request("the text cannot be cut by the tokenizer's " + path_, "a match goes backwards");
  return true;
}

Pattern::Pattern(const Rule& rule) {
  if (auto text = rule.optional("String")) {
    literal_ = text->text();
    // Empty, it matches everywhere, as an empty regular expression does.
    if (literal_.empty()) regex_ = std::make_unique<Regex>("", text->path());
  } else {
    Rule regex = rule.field("Regex");
    regex_ = std::make_unique<Regex>(regex.text(), regex.path());
  }
}

bool Pattern::search(std::string_view text, size_t from, size_t* start, size_t* end) const {
  if (regex_) return regex_->search(text, from, start, end);
  *start = text.find(literal_, from);
  *end = *start + literal_.size();
  return *start != text.npos;
}

}  // namespace heddle
