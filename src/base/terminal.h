#pragma once

namespace moesaic::base {

/// Whether what is written there is shown on a terminal that understands more than text: where it
/// does not (TERM is "dumb" or not set), lines are not redrawn and nothing has a colour.
bool is_smart_terminal(int fd);

}  // namespace moesaic::base
