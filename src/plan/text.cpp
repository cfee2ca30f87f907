#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/render.h"

namespace moesaic::plan {

namespace {

using model::AttentionKind;

constexpr size_t kColumns = 80;

double real(int64_t value) { return static_cast<double>(value); }

/// Every line without spaces at its end.
std::string trimmed(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      while (!out.empty() && out.back() == ' ') out.pop_back();
    }
    out += c;
  }
  return out;
}

std::string money(const std::optional<double>& usd) {
  return usd ? fmt::format("{:.2f}", *usd) : "?";
}

std::string kv_kind(const model::ModelSpec& spec, double state_bytes) {
  model::AttentionSpec attention;  // of the first layer that has a cache
  int64_t windowed = 0;
  int64_t window = 0;
  int64_t recurrent = 0;
  for (const model::LayerSpec& layer : spec.layers) {
    if (attention.heads == 0) attention = layer.attention;
    if (layer.attention.kind == AttentionKind::kRecurrent) ++recurrent;
    if (layer.attention.sliding_window == 0 ||
        layer.attention.sliding_window >= spec.max_position) {
      continue;
    }
    ++windowed;
    window = layer.attention.sliding_window;
  }
  std::string text =
      attention.kind == AttentionKind::kMla
          ? fmt::format("a latent of {} + {} values a layer", attention.latent.kv_rank,
                        attention.latent.rope_dim)
          : fmt::format("{} KV heads for {} heads", attention.kv_heads, attention.heads);
  if (windowed > 0) {
    text +=
        fmt::format("; {} of {} layers keep only {} tokens", windowed, spec.layers.size(), window);
  }
  if (attention.indexer.top_k > 0) {
    text += fmt::format("; {} tokens are attended to", attention.indexer.top_k);
  }
  if (recurrent > 0) {
    text += fmt::format("; {} of {} layers keep a state of fixed size instead, {} a sequence",
                        recurrent, spec.layers.size(), bytes_text(state_bytes));
  }
  return text;
}

void head(const Plan& plan, std::string& out) {
  const model::ModelSpec& spec = plan.inputs.model.spec;
  const model::ParameterCount& count = plan.parameters;
  const auto line = [&](const char* title, const std::string& text) {
    out += wrap(text, fmt::format("  {:<12} ", title));
  };
  out += fmt::format("{} ({})\n", plan.inputs.model.name, spec.family);
  line("parameters",
       fmt::format("{} in all, {} active for a token", parameters_text(real(count.total)),
                   parameters_text(real(count.active))));
  line("weights", fmt::format("{} in 16 bits, {} in 8, {} in 4 (decimal GB)",
                              bytes_text(static_cast<double>(plan.bf16_bytes)),
                              bytes_text(static_cast<double>(plan.int8_bytes)),
                              bytes_text(static_cast<double>(plan.int4_bytes))));
  line("KV cache", fmt::format("{} bytes a token: {}; were every head to keep its own, {} "
                               "({:.1f} times)",
                               grouped(plan.kv_bytes_per_token), kv_kind(spec, plan.state_bytes),
                               grouped(plan.mha_bytes_per_token),
                               plan.mha_bytes_per_token / std::max(1.0, plan.kv_bytes_per_token)));
  line("planned as",
       fmt::format("{} weights, {:.0f}-bit KV cache, {:.0f}% of each device", plan.format.label,
                   plan.kv_element_bytes * 8, plan.inputs.utilization * 100));
  line("load", describe_load(plan));
}

/// "2/8 H100": devices used of those the instances have.
std::string short_devices(const Candidate& candidate) {
  return fmt::format("{}/{} {}", candidate.devices, candidate.nodes * candidate.instance_devices,
                     candidate.accelerator);
}

/// Appends `text` so that it ends in column `end`, or later where what stands before it is longer.
void put(std::string& line, size_t end, const std::string& text) {
  const size_t used = line.size() + text.size();
  line.append(end > used ? end - used : 1, ' ');
  line += text;
}

/// Large counts in tenths of millions or billions, rounded down.
std::string short_count(int64_t count) {
  constexpr int64_t kMillion = 1'000'000;
  constexpr int64_t kBillion = 1'000'000'000;
  if (count < kMillion) return grouped(real(count));
  const int64_t unit = count < kBillion ? kMillion : kBillion;
  return fmt::format("{}.{}{}", count / unit, count % unit / (unit / 10),
                     unit == kMillion ? 'M' : 'G');
}

std::string row(const Plan& plan, size_t index) {
  const Candidate& candidate = plan.candidates[index];
  constexpr size_t kLongestName = 16;
  std::string line = plan.recommended == index ? "* " : "  ";
  line += candidate.instance;
  if (candidate.instance.size() > kLongestName) line += "\n  ";
  const size_t start = line.rfind('\n') + 1;  // a name that leaves no room has a line to itself
  line.append(start + 19 - line.size(), ' ');
  line += short_devices(candidate);
  if (!candidate.fits) {
    put(line, start + 48, "does not fit");
    return line + "\n";
  }
  put(line, start + 41, fmt::format("{}/{}/{}", candidate.tp, candidate.ep, candidate.pp));
  put(line, start + 48, short_count(candidate.sequences));
  if (candidate.vendor == "cpu") return line + "\n";
  put(line, start + 56, grouped(candidate.served_tokens_per_s));
  put(line, start + 63, fmt::format("{:.0f}", candidate.first_token_seconds * 1000));
  put(line, start + 71, money(candidate.usd_per_hour_instances));
  put(line, start + 79, money(candidate.usd_per_million_tokens));
  return line + "\n";
}

void table(const Plan& plan, std::string& out) {
  out += fmt::format("\n  {:<17}{:<15}{:>7}{:>7}{:>8}{:>7}{:>8}{:>8}\n", "instance", "devices",
                     "layout", "holds", "tok/s", "TTFT", "USD/h", "USD/M");
  for (size_t i = 0; i < plan.candidates.size(); ++i) out += row(plan, i);
  out += wrap(
      "devices: used / of the instance. layout: tp/ep/pp. holds: sequences of the load at once. "
      "tok/s: generated by all sequences, prompts read along the way. TTFT: ms to the first token "
      "of "
      "one prompt on an idle server. USD/h: the bill, for whole instances; USD/M: of it, per "
      "million "
      "tokens generated.",
      "  ");
}

void memory(const Candidate& candidate, std::string& out) {
  out += fmt::format("\nMemory of each device, in GiB (2^30 bytes) of {:.1f}\n",
                     to_gib(candidate.device_bytes));
  const int digits = to_gib(candidate.per_device.weights()) < 1 ? 4 : 2;
  for (const NamedTerm& term : named_terms(candidate.per_device)) {
    if (term.bytes == 0) continue;
    const double share =
        static_cast<double>(term.bytes) /
        static_cast<double>(std::max(candidate.device_bytes, candidate.per_device.total()));
    std::string line = fmt::format("  {:<28}{:>8.{}f}  ", term.title, to_gib(term.bytes), digits);
    const size_t room = kColumns - line.size();
    line.append(std::min(room, static_cast<size_t>(std::lround(share * 40))), '#');
    out += line + "\n";
  }
  out += fmt::format("  {:<28}{:>8.{}f}\n", "all", to_gib(candidate.per_device.total()), digits);
}

void capacity(const Candidate& candidate, std::string& out) {
  out += fmt::format("\nThe KV cache holds {} tokens; one sequence may have {}\n",
                     grouped(real(candidate.kv_tokens)), grouped(real(candidate.max_model_len)));
  std::string lengths = "  tokens each  ";
  std::string counts = "  at once      ";
  for (const auto& [length, sequences] : candidate.capacity) {
    if (lengths.size() > 70 || sequences == 0) break;
    lengths += fmt::format("{:>8}", grouped(real(length)));
    counts += fmt::format("{:>8}", short_count(sequences));
  }
  if (lengths.size() > 15) out += lengths + "\n" + counts + "\n";
}

void speed(const Plan& plan, const Candidate& candidate, std::string& out) {
  out += fmt::format("\nSpeed, expected of {} beside the ideal (tokens/s)\n", candidate.engine);
  out += fmt::format("  {:<12}{:>10}{:>10}{:>10}{:>10}  {}\n", "sequences", "expected", "ideal",
                     "per user", "experts", "bound by");
  for (const auto& [batch, estimate] : candidate.decode_at) {
    out += fmt::format("  {:<12}{:>10}{:>10}{:>10.1f}{:>10.1f}  {}\n", batch,
                       grouped(estimate.tokens_per_s), grouped(estimate.ideal_tokens_per_s),
                       estimate.per_user, estimate.distinct_experts, to_string(estimate.bound));
  }
  const Estimate& prefill = candidate.prefill;
  out += fmt::format("  {:<12}{:>10}{:>10}{:>20}  {}\n", "prompts", grouped(prefill.tokens_per_s),
                     grouped(prefill.ideal_tokens_per_s), "", to_string(prefill.bound));
  out += fmt::format("  {:<12}{:>10}  {} sequences of {} + {} tokens, prompts read too\n", "served",
                     grouped(candidate.served_tokens_per_s), candidate.concurrency,
                     grouped(real(plan.load.prompt)), grouped(real(plan.load.output)));
  out +=
      fmt::format("  first token of a prompt of {}: {:.1f} ms on an idle server; start: {:.0f} s\n",
                  grouped(real(plan.load.prompt)), candidate.first_token_seconds * 1000,
                  candidate.load_seconds);
  out += "  experts: distinct ones a layer is expected to read, with even routing\n";
}

void cost(const Candidate& candidate, std::string& out) {
  if (!candidate.usd_per_hour) {
    out += "\nCost: no list price is known; give one with --hardware FILE\n";
    return;
  }
  const double whole = *candidate.usd_per_hour_instances;
  out += fmt::format("\nCost in USD at {} sequence{}\n", candidate.concurrency,
                     candidate.concurrency == 1 ? "" : "s");
  out += fmt::format("  {:<28}{:>10}{:>12}\n", "", "an hour", "730 hours");
  if (candidate.share < 1) {
    out += fmt::format("  {:<28}{:>10.2f}{:>12}\n",
                       fmt::format("a share, {} of {} devices", candidate.devices,
                                   candidate.nodes * candidate.instance_devices),
                       *candidate.usd_per_hour, grouped(*candidate.usd_per_hour * kHoursPerMonth));
  }
  out += fmt::format("  {:<28}{:>10.2f}{:>12}\n",
                     candidate.nodes > 1 ? fmt::format("{} whole instances", candidate.nodes)
                                         : "whole instance, as billed",
                     whole, grouped(whole * kHoursPerMonth));
  out += fmt::format("  a million tokens generated, prompts read along: {:.2f}{}\n",
                     *candidate.usd_per_million_tokens,
                     candidate.share < 1 ? fmt::format("; {:.2f} by the share",
                                                       *candidate.usd_per_million_tokens_share)
                                         : "");
  out += wrap(fmt::format("price of {}: {}", candidate.price_date, candidate.price_source), "  ");
}

void list(const char* title, const std::vector<std::string>& lines, std::string& out) {
  if (lines.empty()) return;
  out += fmt::format("\n{}\n", title);
  for (const std::string& line : lines) out += wrap(line, "  - ");
}

void detail(const Plan& plan, const Candidate& candidate, std::string& out) {
  const bool recommended = plan.recommended && &candidate == &plan.candidates[*plan.recommended];
  out += fmt::format("\n{}: {} ({})\n", recommended ? "Recommended" : "Shown", candidate.instance,
                     describe_devices(candidate));
  out += wrap(candidate.reason, "  ");
  if (candidate.vendor != "cpu") out += wrap(parallel_flags(candidate), "  ");
  memory(candidate, out);
  if (candidate.fits) {
    capacity(candidate, out);
    if (candidate.vendor == "cpu") return;
    speed(plan, candidate, out);
    cost(candidate, out);
  }
  list("Why not fewer devices", candidate.smaller, out);
}

/// What stops each instance that does not fit.
std::vector<std::string> misses(const Plan& plan) {
  std::vector<std::string> lines;
  for (const Candidate& candidate : plan.candidates) {
    if (candidate.fits) continue;
    lines.push_back(fmt::format("{} ({}): {}", candidate.instance, describe_devices(candidate),
                                candidate.reason));
  }
  return lines;
}

}  // namespace

std::string to_text(const Plan& plan) {
  std::string out;
  head(plan, out);
  if (!plan.found()) out += wrap(plan.notes.front(), "  NOTHING      ");
  table(plan, out);
  const std::optional<size_t> shown = shown_candidate(plan);
  if (shown) detail(plan, plan.candidates[*shown], out);
  if (!plan.remedies.empty()) {
    out += fmt::format("\nNothing fits. Remedies, in the order to try them on {}\n",
                       plan.candidates[*plan.remedied].instance);
    for (size_t i = 0; i < plan.remedies.size(); ++i) {
      const Remedy& remedy = plan.remedies[i];
      out +=
          wrap(fmt::format("{}: {}", remedy.change, remedy.effect), fmt::format("  {}. ", i + 1));
    }
  }
  list("What does not fit", misses(plan), out);
  std::vector<std::string> notes = plan.notes;
  if (shown) {
    const std::vector<std::string>& more = plan.candidates[*shown].notes;
    notes.insert(notes.end(), more.begin(), more.end());
    if (plan.candidates[*shown].vendor != "cpu") {
      notes.push_back("speed: " + find_efficiency(plan.candidates[*shown].engine).source);
    }
  }
  list("Notes", notes, out);
  return trimmed(out);
}

}  // namespace moesaic::plan
