#include "artifact.h"

#include <nettle/sha2.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "cpu_features.h"
#include "error.h"
#include "text.h"

namespace heddle {

namespace {

constexpr int64_t kSmallFile = 64 << 20;     // bytes; larger ones (weights) are hashed only where all are
constexpr size_t kMostManifest = 256 << 20;  // bytes
constexpr size_t kPiece = 1 << 20;           // bytes read at a time

std::string reason(const std::string& path) { return path + ": " + std::strerror(errno); }

bool is_file(const std::string& path, int64_t* size) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  *size = status.st_size;
  return true;
}

std::string manifest_text(const std::string& path) {
  const std::string file = path + "/manifest.json";
  int64_t size = 0;
  if (!is_file(file, &size)) {
    struct stat status;
    const bool folder = stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    throw bad_artifact(path + " is not an artifact", folder ? "it has no manifest.json" : "the path is not a directory",
                       "compile one: heddle compile MODEL -o model.heddle");
  }
  return read_file(file, kMostManifest);
}

// Those that this runtime was built against; empty where the build did not know.
void check_versions(const Manifest& manifest) {
  struct Version {
    const char* field;
    std::string found, mine;
  };
  for (const Version& version : {Version{"tvm_version", manifest.tvm_version, HEDDLE_TVM_VERSION},
                                 Version{"ffi_version", manifest.ffi_version, HEDDLE_FFI_VERSION}}) {
    if (version.mine.empty() || version.found == version.mine) continue;
    throw bad_artifact(
        std::string("manifest.") + version.field + " is " + quote(version.found) + ", this runtime has " + version.mine,
        "compiled code and runtime must be of one version",
        "compile again with that version, or build the runtime against the artifact's");
  }
}

void check_file(const std::string& folder, const std::string& name, const FileInfo& info, bool whole) {
  const std::string path = folder + "/" + name;
  int64_t size = 0;
  if (!is_file(path, &size)) {
    throw bad_artifact("manifest.files has " + quote(name) + ", which is missing", "looked in " + folder,
                       kCopyArtifact);
  }
  if (size != info.bytes) {
    throw bad_artifact(name + " has " + std::to_string(size) + " bytes, manifest.files[" + quote(name) + "].bytes is " +
                           std::to_string(info.bytes),
                       "", kCopyArtifact);
  }
  if ((whole || info.bytes <= kSmallFile) && sha256(path) != info.sha256) {
    throw bad_artifact(name + " does not have the hash of manifest.files[" + quote(name) + "].sha256",
                       "its bytes have changed", kCopyArtifact);
  }
}

// What of a target's needs the machine lacks; empty where it lacks nothing.
std::string obstacle(const TargetInfo& target, const std::string& arch, const std::set<std::string>& features) {
  if (target.arch != arch) return "an " + target.arch + " CPU";
  std::set<std::string> missing;
  for (const std::string& feature : target.features) {
    if (!features.count(feature)) missing.insert(feature);
  }
  return joined({missing.begin(), missing.end()});
}

}  // namespace

std::string read_file(const std::string& path, size_t most) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw bad_artifact(reason(path));
  std::string text;
  std::string piece(kPiece, '\0');
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount()) {
    text.append(piece, 0, static_cast<size_t>(file.gcount()));
    if (text.size() > most) throw bad_artifact(path + " has more than " + size_text(most), "", kCopyArtifact);
  }
  if (file.bad()) throw bad_artifact(reason(path));
  return text;
}

std::string sha256(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw bad_artifact(reason(path));
  sha256_ctx context;
  sha256_init(&context);
  std::string piece(kPiece, '\0');
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount()) {
    sha256_update(&context, static_cast<size_t>(file.gcount()), reinterpret_cast<const uint8_t*>(piece.data()));
  }
  if (file.bad()) throw bad_artifact(reason(path));
  uint8_t digest[SHA256_DIGEST_SIZE];
  sha256_digest(&context, sizeof digest, digest);
  std::string text;
  for (uint8_t byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

const TargetInfo& choose_target(const std::vector<TargetInfo>& targets, const std::string& name,
                                const std::string& arch, const std::set<std::string>& features) {
  std::vector<std::string> names, lacks;
  for (const TargetInfo& target : targets) {
    names.push_back(target.name);
    if (!name.empty() && name != target.name) continue;
    const std::string why = obstacle(target, arch, features);
    if (why.empty()) return target;
    lacks.push_back(target.name + " needs " + why);
  }
  if (lacks.empty()) {
    throw bad_artifact("the artifact has no target " + quote(name), "it has " + joined(names),
                       "take one of these, or compile again with this --target");
  }
  throw bad_artifact("this machine (" + arch + ") " +
                         (name.empty() ? "can run no target of the artifact" : "cannot run the target " + name),
                     joined(lacks, "; "), "compile on this machine, or with a --target that it can run");
}

Artifact open_artifact(const std::string& path, const std::string& target, bool whole) {
  Artifact artifact{path, parse_manifest(manifest_text(path)), {}};
  artifact.target = choose_target(artifact.manifest.targets, target, architecture(), cpu_features());
  check_versions(artifact.manifest);
  for (const auto& [name, info] : artifact.manifest.files) check_file(path, name, info, whole);
  return artifact;
}

}  // namespace heddle
