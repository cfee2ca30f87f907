#include <iostream>

#include "base/error.h"
#include "base/metrics.h"
#include "base/settings.h"
#include "cli/commands.h"

namespace moesaic::cli {
namespace {

int run_docs(const Invocation& invocation) {
  const std::string topic = invocation.arguments.size() == 1 ? invocation.arguments[0] : "";
  if (topic == "flags") {
    std::cout << base::settings_markdown();
  } else if (topic == "metrics") {
    std::cout << base::metrics_markdown();
  } else {
    throw base::UsageError("docs takes one topic: flags or metrics");
  }
  return 0;
}

}  // namespace

Command docs_command() {
  return {
      "docs", "flags|metrics", "Print a reference page made from the program's own tables.", "", {},
      {},     run_docs};
}

}  // namespace moesaic::cli
