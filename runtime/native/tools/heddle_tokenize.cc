// heddle_tokenize: the tokenizer alone, for tests, measurements and fuzzing.
//
// A record on stdin is a letter, a length in bytes as decimal digits, a line feed, and so many bytes:
//   j  a tokenizer.json, which serves the records that follow     l  a folder that has one
//   e  a text to encode       E  with special tokens
//   d  ids to decode          D  without special tokens; ids are decimal, with spaces between them
//   i  ids to decode one by one, pieces separated by U+001F       I  without special tokens
// An answer on stdout is a letter (= or, for an error, !), a length, a line feed, and so many bytes: ids, a text, or a
// message.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "detokenize.h"
#include "tokenizer.h"

namespace {

std::vector<int32_t> ids_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<int32_t> ids;
  for (int32_t id; in >> id;) ids.push_back(id);
  return ids;
}

// The tokenizer's answer; `tokenizer` is null until a record has brought one.
std::string answer(std::unique_ptr<heddle::Tokenizer>& tokenizer, char kind, const std::string& data) {
  std::string out;
  if (kind == 'j' || kind == 'l') {
    tokenizer.reset();
    tokenizer = kind == 'j' ? heddle::Tokenizer::from_json(data, "tokenizer.json") : heddle::Tokenizer::load(data);
  } else if (!tokenizer) {
    throw std::invalid_argument("there is no tokenizer yet");
  } else if (kind == 'e' || kind == 'E') {
    for (int32_t id : tokenizer->encode(data, kind == 'E')) out += (out.empty() ? "" : " ") + std::to_string(id);
  } else if (kind == 'd' || kind == 'D') {
    out = tokenizer->decode(ids_of(data), kind == 'D');
  } else if (kind == 'i' || kind == 'I') {
    heddle::Detokenizer pieces(*tokenizer, {}, kind == 'I');
    for (int32_t id : ids_of(data)) out += pieces.push(id) + "\x1f";
    out += pieces.finish();
  } else {
    throw std::invalid_argument("no such kind of record");
  }
  return out;
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::unique_ptr<heddle::Tokenizer> tokenizer;
  for (std::string head; std::getline(std::cin, head) && head.size() > 1;) {
    std::string data(std::strtoull(head.c_str() + 1, nullptr, 10), '\0');
    std::cin.read(data.data(), static_cast<std::streamsize>(data.size()));
    std::string out;
    char kind = '=';
    try {
      out = answer(tokenizer, head[0], data);
    } catch (const std::exception& error) {
      kind = '!';
      out = error.what();
    }
    std::cout << kind << out.size() << "\n" << out << std::flush;
  }
}
