#include "base/nearest.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <numeric>
#include <vector>

namespace moesaic::base {

namespace {

/// Names come from a command line; nobody means one this long.
constexpr size_t kMaxCompared = 200;

std::string lower(std::string_view text) {
  std::string out(text.substr(0, kMaxCompared));
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view asked, std::span<const std::string> names) {
  const std::string wanted = lower(asked);
  std::string best;
  size_t least = std::numeric_limits<size_t>::max();
  for (const std::string& name : names) {
    const std::string known = lower(name);
    size_t distance = 2 * edit_distance(wanted, known);
    if (!wanted.empty() && known.find(wanted) != std::string::npos) distance = 1;
    if (distance < least) {
      least = distance;
      best = name;
    }
  }
  return best;
}

}  // namespace moesaic::base
