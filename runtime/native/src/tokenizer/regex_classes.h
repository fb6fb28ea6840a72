// Classes of characters in Oniguruma's regular expressions, in PCRE2's words.
#ifndef HEDDLE_TOKENIZER_REGEX_CLASSES_H_
#define HEDDLE_TOKENIZER_REGEX_CLASSES_H_

#include <array>
#include <string_view>
#include <utility>

namespace heddle {

// Contents of character classes.
inline constexpr const char* kSpace = R"(\t-\r\x{85}\p{Z})";
inline constexpr const char* kNoSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
inline constexpr const char* kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
// Oniguruma takes superscripts and fractions of Latin-1 for word characters too, though not in classes.
inline constexpr const char* kWordNumbers = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// [:name:] as the contents of a class; what is not here is refused.
inline constexpr std::array<std::pair<std::string_view, const char*>, 9> kPosix = {{
    {"alpha", R"(\p{Alphabetic})"},
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"digit", R"(\p{Nd})"},
    {"lower", R"(\p{Lowercase})"},
    {"upper", R"(\p{Uppercase})"},
    {"punct", R"(\p{P}\p{S})"},
    {"cntrl", R"(\p{Cc})"},
    {"space", kSpace},
    {"word", kWord},
}};

// Names in \p{}, lower case and without separators, where PCRE2 has another. Those of one or two letters are the same.
inline constexpr std::array<std::pair<std::string_view, const char*>, 16> kNames = {{
    {"letter", "L"},
    {"mark", "M"},
    {"number", "N"},
    {"punctuation", "P"},
    {"symbol", "S"},
    {"separator", "Z"},
    {"other", "C"},
    {"alpha", "Alphabetic"},
    {"alphabetic", "Alphabetic"},
    {"lowercase", "Lowercase"},
    {"uppercase", "Uppercase"},
    {"lower", "Lowercase"},
    {"upper", "Uppercase"},
    {"digit", "Nd"},
    {"any", "Any"},
    {"emoji", "Emoji"},
}};

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_REGEX_CLASSES_H_
