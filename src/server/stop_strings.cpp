#include "server/stop_strings.h"

#include <algorithm>

namespace moesaic::server {

bool StopMatcher::add(std::string_view text) {
  if (!found_.empty()) return true;
  held_ += text;
  size_t best_end = std::string::npos;
  size_t best_start = 0;
  for (const std::string& stop : stops_) {
    const size_t start = held_.find(stop);
    if (start == std::string::npos) continue;
    const size_t end = start + stop.size();
    if (end > best_end || (end == best_end && start >= best_start)) continue;
    best_end = end;
    best_start = start;
    found_ = stop;
  }
  if (best_end == std::string::npos) return false;
  held_.resize(include_stop_ ? best_end : best_start);
  return true;
}

std::string StopMatcher::take(bool end) {
  size_t keep = 0;
  if (!end && found_.empty()) {
    for (const std::string& stop : stops_) {
      for (size_t size = std::min(stop.size() - 1, held_.size()); size > keep; --size) {
        if (held_.ends_with(std::string_view(stop).substr(0, size))) keep = size;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

}  // namespace moesaic::server
