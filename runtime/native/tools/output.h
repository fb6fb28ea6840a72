// Standard output.
#ifndef HEDDLE_TOOLS_OUTPUT_H_
#define HEDDLE_TOOLS_OUTPUT_H_

#include <string_view>

namespace heddle_run {

// Write at once. A terminal gets control characters as pictures. Failure where it cannot be written.
void print(std::string_view text);

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_OUTPUT_H_
