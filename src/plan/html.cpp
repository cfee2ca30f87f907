// The plan as one page: inline SVG and CSS, no script, nothing fetched. Everything that came from a
// file or the command line passes through escape().

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/render.h"

namespace moesaic::plan {

namespace {

constexpr const char* kStyle = R"(
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child,td.l,th.l{text-align:left}tr.best{background:#eef7ec;font-weight:600}
tr.no{color:#777}.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.9em;
height:.9em;margin-right:.3em;vertical-align:-.1em}svg{width:100%;height:auto}svg text{font:12px system-ui,
sans-serif;fill:#222}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:#666}
dd{margin:0}p.small,li{color:#444}.scroll{overflow-x:auto}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ddd}tr.best{background:#223322}
td,th{border-color:#444}p.small,li{color:#bbb}dt{color:#999}})";

constexpr const char* kLines[] = {"#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2"};
constexpr size_t kMostLines = std::size(kLines);

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

double real(int64_t value) { return static_cast<double>(value); }

std::string money(const std::optional<double>& usd) {
  return usd ? fmt::format("{:.2f}", *usd) : "&ndash;";
}

std::string label(const Candidate& candidate) {
  return fmt::format("{}: {}", candidate.instance, describe_devices(candidate));
}

std::string facts(const Plan& plan) {
  const model::ParameterCount& count = plan.parameters;
  std::string out = "<dl>";
  const auto add = [&](const char* title, const std::string& text) {
    out += fmt::format("<dt>{}</dt><dd>{}</dd>", title, escape(text));
  };
  add("Parameters",
      fmt::format("{}, of which {} are active for a token", parameters_text(real(count.total)),
                  parameters_text(real(count.active))));
  add("Weights", fmt::format("{} in 16 bits, {} in 8, {} in 4",
                             bytes_text(static_cast<double>(plan.bf16_bytes)),
                             bytes_text(static_cast<double>(plan.int8_bytes)),
                             bytes_text(static_cast<double>(plan.int4_bytes))));
  add("KV cache", fmt::format("{} bytes a token ({:.1f} times less than without sharing)",
                              grouped(plan.kv_bytes_per_token),
                              plan.mha_bytes_per_token / std::max(1.0, plan.kv_bytes_per_token)));
  if (plan.state_bytes > 0) {
    add("State", bytes_text(plan.state_bytes) + " a sequence, in the recurrent layers");
  }
  add("Planned as",
      fmt::format("{} weights, {:.0f}-bit KV cache, {:.0f}% of each device", plan.format.label,
                  plan.kv_element_bytes * 8, plan.inputs.utilization * 100));
  add("Load", describe_load(plan));
  return out + "</dl>\n";
}

/// One stacked bar per candidate, each scaled to the largest total; a line marks the device's
/// memory.
std::string memory_bars(const Plan& plan) {
  constexpr double kLeft = 290, kWidth = 600, kRow = 26;
  double most = 1;
  size_t rows = 0;
  for (const Candidate& candidate : plan.candidates) {
    if (candidate.per_device.weights() == 0) continue;
    most = std::max({most, to_gib(candidate.per_device.total()), to_gib(candidate.device_bytes)});
    ++rows;
  }
  std::string out = "<p class=\"key\">";
  for (const NamedTerm& term : named_terms({})) {
    out += fmt::format("<span><i style=\"background:{}\"></i>{}</span>", term.colour, term.title);
  }
  out += fmt::format(
      "</p>\n<svg viewBox=\"0 0 960 {:.0f}\" role=\"img\" aria-label=\"Memory of each "
      "device by term\">\n",
      kRow * static_cast<double>(rows) + 8);
  double y = 4;
  for (const Candidate& candidate : plan.candidates) {
    if (candidate.per_device.weights() == 0) continue;
    out += fmt::format("<text x=\"0\" y=\"{:.0f}\">{}</text>\n", y + 15, escape(label(candidate)));
    double x = kLeft;
    for (const NamedTerm& term : named_terms(candidate.per_device)) {
      const double width = to_gib(term.bytes) / most * kWidth;
      if (width <= 0) continue;
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"18\" fill=\"{}\"><title>{}: "
          "{:.2f} GiB</title></rect>\n",
          x, y, width, term.colour, term.title, to_gib(term.bytes));
      x += width;
    }
    const double end = kLeft + to_gib(candidate.device_bytes) / most * kWidth;
    out += fmt::format("<path d=\"M{0:.1f} {1:.0f}v22\" stroke=\"#d00\" stroke-width=\"2\"/>\n",
                       end, y - 2);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.0f}\">{:.0f}</text>\n", kLeft + kWidth + 8,
                       y + 15, to_gib(candidate.per_device.total()));
    y += kRow;
  }
  return out +
         "</svg>\n<p class=\"small\">GiB (2^30 bytes) of each device. The red line is what the "
         "device has; a bar beyond it does not fit.</p>\n";
}

/// Fitting candidates, the recommended one first, then by price.
std::vector<const Candidate*> charted(const Plan& plan) {
  std::vector<const Candidate*> list;
  for (const Candidate& candidate : plan.candidates) {
    if (candidate.fits && !candidate.capacity.empty()) list.push_back(&candidate);
  }
  const Candidate* best = plan.recommended ? &plan.candidates[*plan.recommended] : nullptr;
  std::stable_sort(list.begin(), list.end(), [&](const Candidate* a, const Candidate* b) {
    const auto key = [&](const Candidate* c) {
      return std::tuple(c != best, !c->usd_per_hour_instances,
                        c->usd_per_hour_instances.value_or(0));
    };
    return key(a) < key(b);
  });
  if (list.size() > kMostLines) list.resize(kMostLines);
  return list;
}

std::string capacity_chart(const Plan& plan) {
  const std::vector<const Candidate*> lines = charted(plan);
  if (lines.empty()) return "<p>Nothing fits, so there is nothing to chart.</p>\n";
  constexpr double kLeft = 60, kTop = 10, kWidth = 860, kHeight = 300;
  const double low = std::log2(real(lines[0]->capacity.front().first));
  const double high = std::max(low + 1, std::log2(real(lines[0]->capacity.back().first)));
  double most = 2;
  for (const Candidate* line : lines) {
    for (const auto& [length, count] : line->capacity) most = std::max(most, real(count));
  }
  const double top = std::ceil(std::log10(most));
  const auto x_of = [&](double length) {
    return kLeft + (std::log2(length) - low) / (high - low) * kWidth;
  };
  const auto y_of = [&](double count) {
    return kTop + kHeight - std::log10(std::max(1.0, count)) / top * kHeight;
  };
  std::string out =
      "<svg viewBox=\"0 0 960 345\" role=\"img\" aria-label=\"Sequences at once against their "
      "length\">\n";
  for (double power = 0; power <= top; ++power) {
    const double y = y_of(std::pow(10, power));
    out += fmt::format(
        "<path d=\"M{:.0f} {:.1f}h{:.0f}\" stroke=\"#ccc\"/><text x=\"{:.0f}\" "
        "y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        kLeft, y, kWidth, kLeft - 6, y + 4, grouped(std::pow(10, power)));
  }
  for (const auto& [length, count] : lines[0]->capacity) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"328\" text-anchor=\"middle\">{}</text>\n",
                       x_of(real(length)), grouped(real(length)));
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string points;
    for (const auto& [length, count] : lines[i]->capacity) {
      if (count < 1) continue;
      points += fmt::format("{:.1f},{:.1f} ", x_of(real(length)), y_of(real(count)));
    }
    out += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                       points, kLines[i]);
  }
  out += "</svg>\n<p class=\"key\">";
  for (size_t i = 0; i < lines.size(); ++i) {
    out += fmt::format("<span><i style=\"background:{}\"></i>{}</span>", kLines[i],
                       escape(label(*lines[i])));
  }
  return out +
         "</p>\n<p class=\"small\">Sequences that the KV cache holds at once (upwards) against "
         "the tokens of each (to the right); both axes are logarithmic.</p>\n";
}

std::string cost_table(const Plan& plan) {
  std::string out =
      "<div class=\"scroll\"><table><tr><th>Instance</th><th class=\"l\">Devices</th>"
      "<th>tp/ep/pp</th><th>Holds</th><th>Served tok/s</th><th>Decoding alone</th><th>USD/h</th>"
      "<th>USD/month</th><th>USD/M tokens</th><th>USD/h of a share</th></tr>\n";
  for (size_t i = 0; i < plan.candidates.size(); ++i) {
    const Candidate& candidate = plan.candidates[i];
    if (!candidate.fits) {
      out += fmt::format(
          "<tr class=\"no\"><td>{}</td><td class=\"l\">{}</td><td class=\"l\" "
          "colspan=\"8\">does not fit: {}</td></tr>\n",
          escape(candidate.instance), escape(describe_devices(candidate)),
          escape(candidate.reason));
      continue;
    }
    const std::optional<double> month =
        candidate.usd_per_hour_instances
            ? std::optional(*candidate.usd_per_hour_instances * kHoursPerMonth)
            : std::nullopt;
    out += fmt::format(
        "<tr{}><td>{}</td><td class=\"l\">{}</td><td>{}/{}/{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
        plan.recommended == i ? " class=\"best\"" : "", escape(candidate.instance),
        escape(describe_devices(candidate)), candidate.tp, candidate.ep, candidate.pp,
        grouped(real(candidate.sequences)), grouped(candidate.served_tokens_per_s),
        grouped(candidate.decode.tokens_per_s), money(candidate.usd_per_hour_instances),
        month ? grouped(*month) : "&ndash;", money(candidate.usd_per_million_tokens),
        money(candidate.usd_per_hour));
  }
  return out +
         "</table></div>\n<p class=\"small\">USD/h, month (730 hours) and a million generated "
         "tokens are of whole instances, as they are billed; a share is what the devices used "
         "would "
         "cost if other servers used the rest. Prices are "
         "list prices as of the month that --json gives for each: verify before "
         "buying.</p>\n";
}

std::string items(const char* title, const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string out = fmt::format("<h2>{}</h2><ul>", title);
  for (const std::string& line : lines) out += "<li>" + escape(line) + "</li>";
  return out + "</ul>\n";
}

}  // namespace

std::string to_html(const Plan& plan) {
  const std::string name = escape(plan.inputs.model.name);
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>Plan for {0}</title><style>{1}</style></head>\n<body>"
      "<h1>Plan for {0}</h1>\n",
      name, kStyle);
  out += facts(plan);
  if (!plan.found()) out += "<p><strong>" + escape(plan.notes.front()) + "</strong></p>\n";
  out += "<h2>Memory of each device</h2>\n" + memory_bars(plan);
  out += "<h2>Context against concurrency</h2>\n" + capacity_chart(plan);
  out += "<h2>Cost</h2>\n" + cost_table(plan);
  std::vector<std::string> remedies;
  remedies.reserve(plan.remedies.size());
  for (const Remedy& remedy : plan.remedies)
    remedies.push_back(remedy.change + ": " + remedy.effect);
  out += items("Remedies, in the order to try them", remedies);
  std::vector<std::string> notes = plan.notes;
  if (const std::optional<size_t> shown = shown_candidate(plan)) {
    const std::vector<std::string>& more = plan.candidates[*shown].notes;
    notes.insert(notes.end(), more.begin(), more.end());
    if (plan.candidates[*shown].vendor != "cpu")
      notes.push_back("Speed: " + find_efficiency(plan.candidates[*shown].engine).source);
  }
  out += items("Notes", notes);
  return out + "</body></html>\n";
}

}  // namespace moesaic::plan
