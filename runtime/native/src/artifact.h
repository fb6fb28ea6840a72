// Opening an artifact: everything that can be wrong with it is found here, before anything of it runs; as
// runtime/artifact.py.
#ifndef HEDDLE_ARTIFACT_H_
#define HEDDLE_ARTIFACT_H_

#include <set>
#include <string>

#include "manifest.h"

namespace heddle {

// An artifact directory that fits this machine; `target` is the one of its targets that runs.
struct Artifact {
  std::string path;
  Manifest manifest;
  TargetInfo target;

  std::string file(const std::string& name) const { return path + "/" + name; }
  bool has(const std::string& name) const { return manifest.files.count(name) > 0; }
  const WeightsInfo& weights() const { return manifest.weights_of(target); }
};

// Open and check an artifact, to run the best of its targets that this machine can, or the one called `target` where
// that is not empty. Checks the manifest, the versions of TVM, and every file's size; hashes files up to 64 MB, with
// `whole` all. Error names the field or file that disagrees.
Artifact open_artifact(const std::string& path, const std::string& target, bool whole);

// The first of `targets` that a machine of `arch` with `features` can run, or the one called `name`. Error where there
// is none, with what the machine lacks for each.
const TargetInfo& choose_target(const std::vector<TargetInfo>& targets, const std::string& name,
                                const std::string& arch, const std::set<std::string>& features);

// Hash of a file in hex digits; Error where it cannot be read.
std::string sha256(const std::string& path);

// The text of a file; Error where it cannot be read or has more than `most` bytes.
std::string read_file(const std::string& path, size_t most);

}  // namespace heddle

#endif  // HEDDLE_ARTIFACT_H_
