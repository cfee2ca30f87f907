#include "plan/render.h"

#include <fmt/format.h>

#include <cmath>

namespace moesaic::plan {

std::string grouped(double value) {
  std::string digits = fmt::format("{:.0f}", std::round(value));
  const size_t start = digits.starts_with('-') ? 1 : 0;
  for (size_t i = digits.size(); i > start + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string parameters_text(double parameters) {
  if (parameters >= 1e8) return fmt::format("{:.2f} B", parameters / 1e9);
  return fmt::format("{:.2f} M", parameters / 1e6);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.1f} GB", bytes / 1e9);
  return fmt::format("{:.1f} MB", bytes / 1e6);
}

double to_gib(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

std::string wrap(std::string_view text, const std::string& lead, size_t width) {
  std::string out = lead;
  const std::string indent(lead.size(), ' ');
  size_t column = lead.size();
  bool first = true;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
    if (word.empty()) continue;
    if (!first && column + 1 + word.size() > width) {
      out += "\n" + indent;
      column = indent.size();
      first = true;
    }
    if (!first) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    first = false;
  }
  return out + "\n";
}

std::vector<NamedTerm> named_terms(const MemoryTerms& terms) {
  return {{"attention", "attention, norms, routers", "#4e79a7", terms.attention},
          {"experts", "experts", "#f28e2b", terms.experts},
          {"shared_experts", "shared experts, dense FFN", "#ffbe7d", terms.shared_experts},
          {"embeddings", "embeddings and head", "#76b7b2", terms.embeddings},
          {"encoder", "image encoder", "#bab0ac", terms.encoder},
          {"kv_cache", "KV cache", "#59a14f", terms.kv_cache},
          {"activations", "activations", "#edc948", terms.activations},
          {"graphs", "captured graphs", "#b07aa1", terms.graphs},
          {"communication", "communication", "#ff9da7", terms.communication},
          {"runtime", "runtime context", "#9c755f", terms.runtime},
          {"margin", "margin", "#d3d3d3", terms.margin}};
}

std::string describe_devices(const Candidate& candidate) {
  if (candidate.nodes > 1) {
    return fmt::format("{} x {} on {} nodes", candidate.devices, candidate.accelerator,
                       candidate.nodes);
  }
  if (candidate.devices == candidate.instance_devices) {
    return fmt::format("{} x {}", candidate.devices, candidate.accelerator);
  }
  return fmt::format("{} x {} of {}", candidate.devices, candidate.accelerator,
                     candidate.instance_devices);
}

std::string parallel_flags(const Candidate& candidate) {
  std::string flags = fmt::format("--tensor-parallel-size {}", candidate.tp * candidate.ep);
  if (candidate.ep > 1) flags += " --enable-expert-parallel";
  if (candidate.pp > 1) flags += fmt::format(" --pipeline-parallel-size {}", candidate.pp);
  return flags;
}

std::string describe_load(const Plan& plan) {
  const Workload& load = plan.load;
  const std::string count = load.concurrency ? grouped(static_cast<double>(*load.concurrency))
                                             : fmt::format("up to {}", kUsualLoad);
  return fmt::format("{} sequence{} of {} prompt + {} output tokens; the longest {}", count,
                     load.concurrency == 1 ? "" : "s", grouped(static_cast<double>(load.prompt)),
                     grouped(static_cast<double>(load.output)),
                     grouped(static_cast<double>(load.context)));
}

std::optional<size_t> shown_candidate(const Plan& plan) {
  if (plan.recommended) return plan.recommended;
  for (size_t i = 0; i < plan.candidates.size(); ++i) {
    if (plan.candidates[i].fits) return i;
  }
  return plan.remedied;
}

}  // namespace moesaic::plan
