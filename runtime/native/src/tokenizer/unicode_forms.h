// Unicode's normal forms.
#ifndef HEDDLE_TOKENIZER_UNICODE_FORMS_H_
#define HEDDLE_TOKENIZER_UNICODE_FORMS_H_

#include <string>
#include <string_view>

namespace heddle {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// The text, valid UTF-8, in this form.
std::string unicode_form(std::string_view text, UnicodeForm form);

}  // namespace heddle

#endif  // HEDDLE_TOKENIZER_UNICODE_FORMS_H_
