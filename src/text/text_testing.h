#pragma once

// What the tests of this room share.

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace moesaic::text {

inline std::filesystem::path testdata() {
  return std::filesystem::path(MOESAIC_SOURCE_DIR) / "src/text/testdata";
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The list in a JSON file.
inline boost::json::array read_list(const std::filesystem::path& path) {
  return boost::json::parse(read_file(path)).as_array();
}

inline std::string string_of(const boost::json::value& value) {
  return std::string(value.as_string().data(), value.as_string().size());
}

/// A folder of its own, removed in the end.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "moesaic_text_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace moesaic::text
