#include "plan/render.h"
namespace moesaic::plan {
std::string to_html(const Plan&) { return ""; }
}  // namespace moesaic::plan
