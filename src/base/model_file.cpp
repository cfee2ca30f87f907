#include "base/model_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/printable.h"

namespace moesaic::base {
namespace {

namespace fs = std::filesystem;

bool inside(const fs::path& file, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first ==
         folder.end();
}

/// The models--ORG--NAME above `folder` when that lies in one of its snapshots; empty otherwise.
fs::path cache_repository(const fs::path& folder) {
  for (fs::path at = folder; at.has_relative_path(); at = at.parent_path()) {
    const fs::path snapshots = at.parent_path();
    fs::path repository = snapshots.parent_path();
    if (snapshots.filename() == "snapshots" &&
        repository.filename().string().starts_with("models--")) {
      return repository;
    }
  }
  return {};
}

[[noreturn]] void refuse_missing(const fs::path& path, const std::error_code& error) {
  throw MissingFileError(
      fmt::format("cannot open {}: {}", printable(path.string()), error.message()));
}

void check_place(const fs::path& folder, const fs::path& path, const fs::path& target) {
  std::error_code error;
  // An empty path is the working folder, as elsewhere.
  const fs::path real_folder = fs::canonical(folder.empty() ? "." : folder, error);
  if (error) refuse_missing(folder, error);
  if (inside(target, real_folder)) return;
  const fs::path repository = cache_repository(real_folder);
  if (!repository.empty() && inside(target, repository)) return;
  throw ModelFileError(path.string(),
                       fmt::format("symbolic link to {}, outside the model's folder; put the file "
                                   "itself in the folder (cp -L copies what a link leads to)",
                                   printable(target.string())));
}

}  // namespace

std::optional<fs::path> find_model_file(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return std::nullopt;
  if (type == fs::file_type::none) refuse_missing(path, error);
  const fs::path target = fs::canonical(path, error);
  if (error == std::errc::too_many_symbolic_link_levels) {
    throw ModelFileError(path.string(), "symbolic link that leads back to itself");
  }
  if (error == std::errc::no_such_file_or_directory) {
    throw MissingFileError(fmt::format("{} is a symbolic link to a file that does not exist",
                                       printable(path.string())));
  }
  if (error) refuse_missing(path, error);
  check_place(folder, path, target);
  if (!fs::is_regular_file(target, error)) {
    throw MissingFileError(fmt::format("{} is not a regular file; put the file itself there",
                                       printable(path.string())));
  }
  return target;
}

std::optional<std::string> read_model_file(const fs::path& folder, const std::string& name,
                                           size_t limit) {
  const std::optional<fs::path> target = find_model_file(folder, name);
  if (!target) return std::nullopt;
  std::optional<std::string> content = read_file(*target, limit);
  if (!content) {
    throw ModelFileError((folder / name).string(),
                         fmt::format("has more than the {} bytes that are read of it", limit));
  }
  return content;
}

bool ModelFolder::has(const std::string& name) const {
  std::error_code error;
  return texts_ ? texts_->contains(name) : fs::exists(path_ / name, error);
}

std::optional<std::string> ModelFolder::read(const std::string& name, size_t limit) const {
  if (!texts_) return read_model_file(path_, name, limit);
  const auto text = texts_->find(name);
  if (text == texts_->end()) return std::nullopt;
  if (text->second.size() > limit) {
    throw ModelFileError((path_ / name).string(),
                         fmt::format("has more than the {} bytes that are read of it", limit));
  }
  return text->second;
}

}  // namespace moesaic::base
