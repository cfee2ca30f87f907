#include "plan/yaml.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace moesaic::plan {

YAML::Node parse_yaml(std::string_view text, const std::string& file) {
  if (text.size() > kMaxYamlBytes) {
    throw base::ModelFileError(
        file, fmt::format("has {} bytes; at most {} are read", text.size(), kMaxYamlBytes));
  }
  try {
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    throw base::ModelFileError(
        file, fmt::format("line {}: not valid YAML: {}", error.mark.line + 1, error.msg));
  }
}

YamlReader::YamlReader(const YAML::Node& node, std::string file)
    : node_(node), file_(std::move(file)) {
  if (!node_.IsMap()) fail("expected a mapping of keys to values");
}

void YamlReader::fail(const std::string& problem) const {
  // An empty document is nowhere.
  if (node_.Mark().is_null()) throw base::ModelFileError(file_, problem);
  throw base::ModelFileError(file_, fmt::format("line {}: {}", node_.Mark().line + 1, problem));
}

std::string YamlReader::text(const char* key, const std::optional<std::string>& fallback) {
  asked_.insert(key);
  const YAML::Node value = node_[key];
  if (!value || value.IsNull()) {
    if (fallback) return *fallback;
    fail(fmt::format("\"{}\" is missing", key));
  }
  if (!value.IsScalar() || value.Scalar().empty() || value.Scalar().size() > 2000) {
    fail(fmt::format("\"{}\" must be a text of at most 2000 characters", key));
  }
  return value.Scalar();
}

std::optional<double> YamlReader::maybe_number(const char* key, double lowest, double highest) {
  asked_.insert(key);
  const YAML::Node value = node_[key];
  if (!value || value.IsNull()) return std::nullopt;
  double found = 0;
  // Written so that NaN fails too.
  if (!value.IsScalar() || !YAML::convert<double>::decode(value, found) ||
      !(found >= lowest && found <= highest)) {
    fail(fmt::format("\"{}\" must be a number from {:g} to {:g}", key, lowest, highest));
  }
  return found;
}

double YamlReader::number(const char* key, double lowest, double highest,
                          std::optional<double> fallback) {
  const std::optional<double> found = maybe_number(key, lowest, highest);
  if (found) return *found;
  if (fallback) return *fallback;
  fail(fmt::format("\"{}\" is missing; it must be a number from {:g} to {:g}", key, lowest,
                   highest));
}

YAML::Node YamlReader::child(const char* key) {
  asked_.insert(key);
  return node_[key];
}

YAML::Node YamlReader::list(const char* key) {
  const YAML::Node value = child(key);
  if (value && !value.IsNull() && !value.IsSequence()) {
    fail(fmt::format("\"{}\" must be a list", key));
  }
  return value;
}

void YamlReader::finish() const {
  for (const auto& member : node_) {
    const std::string key = member.first.IsScalar() ? member.first.Scalar() : "?";
    if (!asked_.contains(key)) fail(fmt::format("unknown key \"{}\"", key.substr(0, 60)));
  }
}

}  // namespace moesaic::plan
