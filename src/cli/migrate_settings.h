#pragma once

// A foreign server's arguments and environment as this server's: the same parser and the same table
// as `serve` has, so that what migrate writes is what serve takes.

#include <string>
#include <vector>

#include "cli/deploy_report.h"
#include "deploy/workload_reader.h"

namespace moesaic::cli {

/// What became of the settings; each line is ready to print.
struct MigratedSettings {
  std::vector<std::string> kept;
  std::vector<std::string> renamed;
  std::vector<std::string> later;            ///< kept, refused by a real start today
  std::vector<std::string> without_meaning;  ///< left out
  std::vector<std::string> not_understood;   ///< left out
  std::vector<std::string> secrets;          ///< values that are not copied; what to do
  std::vector<SecretKey> needed;             ///< where those values have to stand
};

/// Fills model, port, arguments and environment of `workload.service`. Throws UsageError when no
/// model is named.
MigratedSettings migrate_settings(deploy::Workload& workload);

}  // namespace moesaic::cli
