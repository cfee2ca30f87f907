#pragma once

#include <string_view>

namespace moesaic::plan {

// The files of data/, as they were when the program was built.
std::string_view shipped_models();
std::string_view shipped_hardware();
std::string_view shipped_efficiency();

}  // namespace moesaic::plan
