#pragma once

// Strict reading of the planner's own YAML files. Only the keys that are asked for are visited, at
// a fixed depth, so anchors and aliases in a hostile file cannot multiply work.

#include <yaml-cpp/yaml.h>

#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace moesaic::plan {

constexpr size_t kMaxYamlBytes = size_t{1} << 20;

/// Parses one document of at most kMaxYamlBytes. Throws ModelFileError (exit 65) with the line.
YAML::Node parse_yaml(std::string_view text, const std::string& file);

/// Reads one mapping; every getter throws ModelFileError that names file, line and key.
class YamlReader {
 public:
  YamlReader(const YAML::Node& node, std::string file);

  std::string text(const char* key, const std::optional<std::string>& fallback = std::nullopt);
  double number(const char* key, double lowest, double highest,
                std::optional<double> fallback = std::nullopt);
  /// Empty when the key is null or absent.
  std::optional<double> maybe_number(const char* key, double lowest, double highest);
  YAML::Node child(const char* key);
  /// A child that is a list where it is there.
  YAML::Node list(const char* key);
  [[noreturn]] void fail(const std::string& problem) const;
  /// Refuses keys that nothing asked for: a misspelt key must not pass unnoticed.
  void finish() const;

 private:
  YAML::Node node_;
  std::string file_;
  std::set<std::string> asked_;
};

}  // namespace moesaic::plan
