#pragma once

// What the text and the page say in the same words.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plan/plan.h"

namespace moesaic::plan {

/// 12345.6 as "12,346".
std::string grouped(double value);
/// "46.70 B", "7.31 M".
std::string parameters_text(double parameters);
/// Decimal: "93.4 GB", "14.6 MB".
std::string bytes_text(double bytes);
double to_gib(uint64_t bytes);
/// `text` in lines of at most `width` columns; the first begins with `lead`, the others are
/// indented as far.
std::string wrap(std::string_view text, const std::string& lead, size_t width = 80);

struct NamedTerm {
  const char* key;     ///< as in JSON
  const char* title;   ///< for people
  const char* colour;  ///< on the page
  uint64_t bytes;
};
std::vector<NamedTerm> named_terms(const MemoryTerms& terms);

/// "2 x H100 of 8"; "2 nodes of 8 x H200".
std::string describe_devices(const Candidate& candidate);
/// What an engine is told: "--tensor-parallel-size 4 --enable-expert-parallel".
std::string parallel_flags(const Candidate& candidate);
/// "up to 32 sequences of 256 + 256 tokens, the longest 4,096".
std::string describe_load(const Plan& plan);
/// The candidate that is shown in full: the recommended one, else one that fits, else the nearest
/// miss; none when nothing could be laid out.
std::optional<size_t> shown_candidate(const Plan& plan);

constexpr double kHoursPerMonth = 730;

}  // namespace moesaic::plan
