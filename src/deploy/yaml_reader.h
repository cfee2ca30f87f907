#pragma once

// YAML that strangers wrote, as JSON values. Nothing is built before it is counted: size, depth,
// values and what aliases expand to are bounded, so a hostile file costs little and ends in
// ModelFileError with the file and the line.

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::deploy {

constexpr size_t kMaxManifestBytes = size_t{2} << 20;  ///< etcd takes 1.5 MiB an object
constexpr size_t kMaxManifestDepth = 64;
constexpr size_t kMaxManifestValues = 100'000;        ///< aliases expanded
constexpr size_t kMaxManifestText = size_t{8} << 20;  ///< bytes of all scalars, aliases expanded

struct YamlDocument {
  boost::json::value value;
  int line = 1;  ///< where it begins
};

/// All documents of `text`. Plain null, true, false and whole numbers become such values; every
/// other scalar is a string as it is written ("0.90" stays "0.90"). Throws ModelFileError naming
/// `file` and the line for what is not YAML, not UTF-8, has a key twice or is beyond the bounds.
std::vector<YamlDocument> read_yaml(std::string_view text, const std::string& file);

/// The bytes of a file of at most kMaxManifestBytes. Throws MissingFileError or, for a larger one,
/// ModelFileError without having read it.
std::string read_manifest_file(const std::filesystem::path& path);

}  // namespace moesaic::deploy
