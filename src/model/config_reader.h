#pragma once

// Strict reading of config.json: every getter checks type and range, so that no number of a file
// reaches an allocation or a division unchecked. A JSON null counts as an absent key, as it does in
// the files that transformers writes.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::model {

/// Reads one JSON object. All getters throw ModelFileError that names the file, the key, what was
/// found and what is allowed. The object outlives the reader.
class ConfigReader {
 public:
  /// `path` is the dotted place of `object` in the file, empty for the file's own object.
  ConfigReader(const boost::json::object& object, std::string file, std::string path = {});

  const std::string& file() const { return file_; }
  /// The key is there and is not null.
  bool has(std::string_view key) const;
  /// The key is there and is null.
  bool is_null(std::string_view key) const;

  /// An integer in [lowest, highest]; without a fallback the key is required.
  int64_t integer(std::string_view key, int64_t lowest, int64_t highest,
                  std::optional<int64_t> fallback = std::nullopt) const;
  /// A finite number in [lowest, highest].
  double number(std::string_view key, double lowest, double highest,
                std::optional<double> fallback = std::nullopt) const;
  bool boolean(std::string_view key, std::optional<bool> fallback = std::nullopt) const;
  std::string string(std::string_view key,
                     const std::optional<std::string>& fallback = std::nullopt) const;
  /// At most `max_count` integers in [lowest, highest]; a lone integer is a list of one, an absent
  /// key an empty list.
  std::vector<int64_t> integers(std::string_view key, int64_t lowest, int64_t highest,
                                size_t max_count) const;
  /// At most `max_count` strings; an absent key is an empty list.
  std::vector<std::string> strings(std::string_view key, size_t max_count) const;
  /// The nested object; empty when absent.
  std::optional<ConfigReader> object(std::string_view key) const;
  std::vector<std::string> keys() const;
  const boost::json::object& json() const { return *object_; }

  /// Throws ModelFileError: "<key>" <problem>.
  [[noreturn]] void fail(std::string_view key, const std::string& problem) const;

 private:
  const boost::json::value* find(std::string_view key) const;
  [[noreturn]] void missing(std::string_view key, const std::string& allowed) const;

  const boost::json::object* object_;
  std::string file_;
  std::string path_;
};

}  // namespace moesaic::model
