#include "checkpoint/truncation_guard.h"

#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/log.h"

namespace moesaic::checkpoint {
namespace {

int g_depth = 0;
struct sigaction g_previous {};

void on_bus_error(int) {
  static constexpr char kMessage[] =
      "moesaic: a model file was cut short while it was being read (or its disk failed); stop "
      "what writes to it and start again\n";
  base::write_last_words({kMessage, sizeof(kMessage) - 1});
  ::_exit(static_cast<int>(base::ExitCode::kInternal));
}

}  // namespace

TruncationGuard::TruncationGuard() {
  if (g_depth++ > 0) return;
  struct sigaction action {};
  action.sa_handler = on_bus_error;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &g_previous);
}

TruncationGuard::~TruncationGuard() {
  if (--g_depth > 0) return;
  ::sigaction(SIGBUS, &g_previous, nullptr);
}

}  // namespace moesaic::checkpoint
