#include "cli/memory_table.h"

#include <fmt/format.h>

#include <cmath>

namespace moesaic::cli {
namespace {

std::string size_text(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= uint64_t{1} << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  return fmt::format("{:.2f} MiB", value / (1 << 20));
}

std::string difference(uint64_t planned, uint64_t actual) {
  if (planned == actual) return "none";
  if (planned == 0) return "not planned";
  const double percent = (static_cast<double>(actual) / static_cast<double>(planned) - 1) * 100;
  return fmt::format("{:+.2f}%", percent);
}

std::string kv_line(const model::MemoryNeeds& needs) {
  return fmt::format("the KV cache holds {} tokens in {} blocks", needs.kv_tokens, needs.kv_blocks);
}

}  // namespace

std::array<MemoryTerm, 5> memory_terms(const model::MemoryNeeds& needs) {
  using base::MemoryTag;
  return {{{"weights", needs.weights, MemoryTag::kWeights, true},
           {"kv_cache", needs.kv_cache, MemoryTag::kKvCache, true},
           {"activations", needs.activations, MemoryTag::kActivations, true},
           {"requests", needs.requests, MemoryTag::kRuntime, false},
           {"runtime", needs.runtime, MemoryTag::kRuntime, false}}};
}

std::array<uint64_t, 5> allocated_terms(const model::MemoryNeeds& needs) {
  std::array<uint64_t, 5> allocated{};
  const auto terms = memory_terms(needs);
  for (size_t i = 0; i < terms.size(); ++i) allocated[i] = base::allocated_bytes(terms[i].tag);
  return allocated;
}

std::vector<std::string> memory_table(const model::MemoryNeeds& needs) {
  std::vector<std::string> lines = {fmt::format("{:<12}{:>14}", "memory", "planned")};
  for (const MemoryTerm& term : memory_terms(needs)) {
    lines.push_back(fmt::format("{:<12}{:>14}", term.name, size_text(term.planned)));
  }
  lines.push_back(fmt::format("{:<12}{:>14}", "total", size_text(needs.total())));
  lines.push_back(kv_line(needs));
  return lines;
}

std::vector<std::string> memory_table(const model::MemoryNeeds& needs,
                                      const std::array<uint64_t, 5>& allocated) {
  const auto row = [](std::string_view name, std::string_view planned, std::string_view actual,
                      std::string_view off) {
    return fmt::format("{:<12}{:>13}{:>13}{:>12}", name, planned, actual, off);
  };
  std::vector<std::string> lines = {row("memory", "planned", "allocated", "difference")};
  uint64_t planned = 0;
  uint64_t actual = 0;
  const auto terms = memory_terms(needs);
  for (size_t i = 0; i < terms.size(); ++i) {
    if (!terms[i].tagged) {
      lines.push_back(row(terms[i].name, size_text(terms[i].planned), "-", "a reserve"));
      continue;
    }
    planned += terms[i].planned;
    actual += allocated[i];
    lines.push_back(row(terms[i].name, size_text(terms[i].planned), size_text(allocated[i]),
                        difference(terms[i].planned, allocated[i])));
  }
  lines.push_back(
      row("compared", size_text(planned), size_text(actual), difference(planned, actual)));
  return lines;
}

}  // namespace moesaic::cli
