#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <string>

#include "base/error.h"

namespace moesaic::base {

void init_logging(std::string_view level) {
  static const std::map<std::string, spdlog::level::level_enum> kLevels = {
      {"trace", spdlog::level::trace},       {"debug", spdlog::level::debug},
      {"info", spdlog::level::info},         {"warning", spdlog::level::warn},
      {"warn", spdlog::level::warn},         {"error", spdlog::level::err},
      {"critical", spdlog::level::critical}, {"off", spdlog::level::off}};
  std::string lower(level);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto found = kLevels.find(lower);
  if (found == kLevels.end()) {
    throw UsageError("unknown log level '" + std::string(level) +
                     "'; use trace, debug, info, warning, error, critical or off");
  }
  auto logger = spdlog::get("moesaic");
  if (!logger) {
    logger = spdlog::stderr_color_mt("moesaic");
    logger->set_pattern("%H:%M:%S.%e %^%-5l%$ %v");
    spdlog::set_default_logger(logger);
  }
  spdlog::set_level(found->second);
}

}  // namespace moesaic::base
