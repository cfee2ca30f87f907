#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "model/prepared_cache.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

std::string gib(uint64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

void list(const std::vector<model::PreparedFile>& files) {
  for (const model::PreparedFile& file : files) {
    const auto written = std::chrono::file_clock::to_sys(file.written);
    const std::time_t time = std::chrono::system_clock::to_time_t(
        std::chrono::time_point_cast<std::chrono::system_clock::duration>(written));
    fmt::print("{:>10}  {:%Y-%m-%d}  {}{}\n", gib(file.bytes), fmt::localtime(time),
               file.path.filename().string(), file.finished ? "" : "  (unfinished)");
  }
}

void clear(const std::vector<model::PreparedFile>& files) {
  uint64_t bytes = 0;
  size_t removed = 0;
  for (const model::PreparedFile& file : files) {
    if (!model::remove_prepared_file(file)) {
      fmt::print("{} stays: another process writes it, or it may not be removed\n",
                 file.path.string());
      continue;
    }
    ++removed;
    bytes += file.bytes;
  }
  fmt::print("removed {} files, {}\n", removed, gib(bytes));
}

int run_cache(const Invocation& invocation) {
  const std::vector<std::string>& arguments = invocation.arguments;
  const bool clears = !arguments.empty() && arguments[0] == "clear";
  if (!clears && (arguments.size() != 1 || arguments[0] != "list")) {
    throw base::UsageError("cache takes list, or clear and the models to clear (all without)");
  }
  const fs::path folder = cache_folder(invocation.settings);
  if (folder.empty()) {
    throw base::UsageError("there is no cache: --prepared-cache is off, or HOME is not set");
  }
  std::vector<model::PreparedFile> files = model::prepared_files(folder);
  if (arguments.size() > 1) {
    for (auto name = arguments.begin() + 1; name != arguments.end(); ++name) {
      const bool known = std::any_of(files.begin(), files.end(),
                                     [&](const auto& file) { return file.model == *name; });
      if (!known) {
        throw base::MissingFileError(
            fmt::format("the cache has nothing of a model '{}'; 'moesaic "
                        "cache list' shows what it has",
                        base::printable(*name)));
      }
    }
    std::erase_if(files, [&](const auto& file) {
      return std::find(arguments.begin() + 1, arguments.end(), file.model) == arguments.end();
    });
  }
  if (clears) {
    clear(files);
    return 0;
  }
  uint64_t bytes = 0;
  for (const model::PreparedFile& file : files) bytes += file.bytes;
  list(files);
  fmt::print("{} files, {}, in {}\n", files.size(), gib(bytes), folder.string());
  return 0;
}

}  // namespace

Command cache_command() {
  return {"cache",
          "list|clear [NAME...]",
          "Show or remove prepared weights, which a warm start reads instead of converting.",
          "Each takes about as much disk as the model in memory. NAME is the part of a file's name "
          "before the first hash; without one, clear removes all. A server that runs needs none of "
          "them.",
          {},
          {"Model"},
          run_cache};
}

}  // namespace moesaic::cli
