#include "detokenize.h"

#include <algorithm>
#include <utility>

#include "utf8.h"

namespace heddle {

namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // how an incomplete character decodes

// Length of the longest end of `text` with which `stop` begins; less than all of `stop`.
size_t overlap(std::string_view text, std::string_view stop) {
  size_t length = std::min(text.size(), stop.size() - 1);
  while (length > 0 && text.substr(text.size() - length) != stop.substr(0, length)) --length;
  return length;
}

}  // namespace

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string IncrementalDecoder::push(int32_t token) {
  if (tokenizer_.is_silent(token, skip_special_)) return "";
  window_.push_back(token);
  if (tokenizer_.is_byte(token)) return "";
  std::string text = tokenizer_.decode(window_, skip_special_);
  // Only the last character can be incomplete: those before it are followed by something else already.
  bool whole = text.size() < kReplacement.size() || text.substr(text.size() - kReplacement.size()) != kReplacement;
  std::string piece =
      release(whole ? std::string_view(text) : std::string_view(text).substr(0, text.size() - kReplacement.size()));
  if (whole) {
    std::string context = tokenizer_.decode(&token, 1, skip_special_);
    if (!context.empty()) {
      window_ = {token};
      sent_ = count_characters(context);
    }
  }
  return piece;
}

std::string IncrementalDecoder::finish() {
  return window_.empty() ? "" : release(tokenizer_.decode(window_, skip_special_));
}

std::string IncrementalDecoder::release(std::string_view certain) {
  size_t at = 0, count = 0;
  for (; at < certain.size() && count < sent_; ++count) at += character_at(certain, at).size;
  std::string piece(certain.substr(at));
  sent_ = std::max(sent_, count + count_characters(piece));
  return piece;
}

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string StopFilter::push(std::string_view piece) {
  if (found_) return "";
  std::string text = held_.append(piece);
  size_t first_end = text.npos, first_start = text.npos;
  const std::string* hit = nullptr;
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    size_t start = text.find(stop);
    if (start != text.npos && std::pair(start + stop.size(), start) < std::pair(first_end, first_start)) {
      first_end = start + stop.size(), first_start = start, hit = &stop;
    }
    keep = std::max(keep, overlap(text, stop));
  }
  if (hit) {
    found_ = *hit;
    held_.clear();
    return text.substr(0, first_start);
  }
  held_ = text.substr(text.size() - keep);
  return text.substr(0, text.size() - keep);
}

std::string StopFilter::finish() { return std::exchange(held_, ""); }

Detokenizer::Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stops, bool skip_special)
    : decoder_(tokenizer, skip_special), filter_(std::move(stops)) {}

std::string Detokenizer::push(int32_t token) { return filter_.push(decoder_.push(token)); }

std::string Detokenizer::finish() {
  std::string piece = filter_.push(decoder_.finish());
  return piece + filter_.finish();
}

}  // namespace heddle
