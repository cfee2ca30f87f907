#pragma once

// The memory needed, as people read it: one line a term, planned and, when loaded, allocated.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory.h"
#include "model/memory_needs.h"

namespace moesaic::cli {

struct MemoryTerm {
  std::string_view name;  ///< as in metric labels
  uint64_t planned = 0;   ///< bytes
  base::MemoryTag tag;
  /// The term's allocations carry its tag. The others are reserves: requests, filled as they come
  /// and counted by the server; and runtime, for the tokenizer, connections, the sampler and the
  /// allocator's slack, whose small allocations nothing counts one by one.
  bool tagged = true;
};

/// The terms of what is needed, in the order they are printed.
std::array<MemoryTerm, 5> memory_terms(const model::MemoryNeeds& needs);

/// Lines of a table of at most 60 columns, so that it fits behind a log's time and level.
std::vector<std::string> memory_table(const model::MemoryNeeds& needs);
/// The same beside `allocated`, bytes in the order of memory_terms().
std::vector<std::string> memory_table(const model::MemoryNeeds& needs,
                                      const std::array<uint64_t, 5>& allocated);

/// What is allocated now under each term's tag.
std::array<uint64_t, 5> allocated_terms(const model::MemoryNeeds& needs);

}  // namespace moesaic::cli
