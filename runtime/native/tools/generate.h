// Prompts in, answers out: as they come, or as JSON.
#ifndef HEDDLE_TOOLS_GENERATE_H_
#define HEDDLE_TOOLS_GENERATE_H_

#include "options.h"

namespace heddle_run {

// Failure says what is wrong with prompts or model.
void generate(const Options& options);

}  // namespace heddle_run

#endif  // HEDDLE_TOOLS_GENERATE_H_
