#include "sequence.h"

#include <algorithm>

namespace heddle {

bool Sequence::ends_with(int32_t token) const {
  return std::find(end_ids.begin(), end_ids.end(), token) != end_ids.end();
}

}  // namespace heddle
