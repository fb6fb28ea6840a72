// What the CPU at hand can do, read from its flags and never from its name; as runtime/features.py.
#ifndef HEDDLE_CPU_FEATURES_H_
#define HEDDLE_CPU_FEATURES_H_

#include <set>
#include <string>
#include <vector>

namespace heddle {

// "x86_64", "aarch64".
const char* architecture();

// Flags that the CPU has and the operating system lets programs use, spelled as in Linux's /proc/cpuinfo.
const std::set<std::string>& cpu_features();

// One logical CPU for each physical core that this process may run on, ascending; never empty.
std::vector<int> physical_cores();

}  // namespace heddle

#endif  // HEDDLE_CPU_FEATURES_H_
