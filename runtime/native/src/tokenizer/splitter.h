// From matches and what lies between them to pieces.
#ifndef HEDDLE_TOKENIZER_SPLITTER_H_
#define HEDDLE_TOKENIZER_SPLITTER_H_

#include "pre_tokenizer.h"
#include "utf8.h"

namespace heddle {

// What becomes of a match; "a-b--c" cut at "-" gives:
enum class Behavior {
  kRemoved,             // a b c
  kIsolated,            // a - b - - c
  kMergedWithPrevious,  // a- b- - c
  kMergedWithNext,      // a -b - -c
  kContiguous,          // a - b -- c
};

Behavior read_behavior(const Rule& rule);

// Takes the parts of a piece in order and gives pieces.
class Splitter {
 public:
  Splitter(Piece piece, Behavior behavior, const PieceSink& out) : piece_(piece), behavior_(behavior), out_(out) {}

  void part(size_t start, size_t end, bool match) {
    if (joins(match)) {
      end_ = end;
    } else {
      flush();
      start_ = start, end_ = end, kept_ = !(match && behavior_ == Behavior::kRemoved);
    }
    last_match_ = match, any_ = true;
  }

  // After the last part.
  void flush() {
    if (any_ && kept_ && start_ < end_)
      out_({piece_.text.substr(start_, end_ - start_), piece_.at_start && start_ == 0});
  }

 private:
  // Whether a part belongs to the piece before it.
  bool joins(bool match) const {
    if (!any_) return false;
    switch (behavior_) {
      case Behavior::kContiguous:
        return match == last_match_;
      case Behavior::kMergedWithPrevious:
        return match && !last_match_;
      case Behavior::kMergedWithNext:
        return !match && last_match_;
      default:
        return false;
    }
  }

  Piece piece_;
  Behavior behavior_;
  const PieceSink& out_;
  size_t start_ = 0, end_ = 0;
  bool any_ = false, kept_ = true, last_match_ = false;
};

// Cuts at the characters that `matches`.
template <typename Matches>
void split_characters(Piece piece, Behavior behavior, Matches&& matches, const PieceSink& out) {
  Splitter splitter(piece, behavior, out);
  size_t done = 0;
  for (size_t at = 0; at < piece.text.size();) {
    Character found = character_at(piece.text, at);
    size_t end = at + found.size;
    if (matches(found.code)) {
      if (done < at) splitter.part(done, at, false);
      splitter.part(at, end, true);
      done = end;
    }
    at = end;
  }
  if (done < piece.text.size()) splitter.part(done, piece.text.size(), false);
  splitter.flush();
}

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_SPLITTER_H_
