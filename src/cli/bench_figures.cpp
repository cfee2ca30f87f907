#include "cli/bench_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <iterator>

namespace moesaic::cli {
namespace {

namespace json = boost::json;

struct Line {
  const char* name;
  const char* key;
  const Samples* samples;
};

std::array<Line, 4> lines_of(const LoadFigures& figures) {
  return {{{"time to first token", "ttft_ms", &figures.ttft},
           {"time per output token", "tpot_ms", &figures.tpot},
           {"inter-token latency", "itl_ms", &figures.itl},
           {"end to end", "e2e_ms", &figures.e2e}}};
}

const std::vector<double> kShares = {0.5, 0.9, 0.99};

double per_second(int64_t count, const LoadFigures& figures) {
  return figures.seconds > 0 ? static_cast<double>(count) / figures.seconds : 0;
}

/// What a reader of the figures has to know.
std::vector<std::string> remarks(const LoadFigures& figures) {
  std::vector<std::string> out;
  if (figures.without_usage > 0) {
    out.push_back(fmt::format(
        "{} answers came without the server's count of tokens: their events were counted instead",
        figures.without_usage));
  }
  if (figures.completed > 0 && figures.output_tokens < figures.asked_tokens) {
    out.push_back(
        fmt::format("answers have {} of the {} tokens asked for: the model ended them, "
                    "or its context did (--ignore-eos)",
                    figures.output_tokens, figures.asked_tokens));
  }
  constexpr double kLate = 0.05;
  if (figures.late > kLate) {
    out.push_back(
        fmt::format("requests began up to {:.0f} ms late: this machine is too slow for "
                    "the load, and part of the times is its own",
                    figures.late * 1e3));
  }
  return out;
}

}  // namespace

void Samples::add(double value) {
  ++count_;
  sum_ += value;
  if (kept_.size() < kKept) {
    kept_.push_back(static_cast<float>(value));
    return;
  }
  const uint64_t place =
      std::uniform_int_distribution<uint64_t>(0, static_cast<uint64_t>(count_) - 1)(random_);
  if (place < kKept) kept_[place] = static_cast<float>(value);
}

std::vector<double> Samples::percentiles(const std::vector<double>& shares) const {
  std::vector<float> sorted = kept_;
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> out;
  for (const double share : shares) {
    const double place = share * static_cast<double>(sorted.size() - 1);
    const auto low = static_cast<size_t>(place);
    const size_t high = std::min(low + 1, sorted.size() - 1);
    out.push_back(std::lerp(static_cast<double>(sorted[low]), static_cast<double>(sorted[high]),
                            place - std::floor(place)));
  }
  return out;
}

void Failures::add(const std::string& reason) {
  ++count_;
  const bool room = reasons_.size() < kReasons || reasons_.contains(reason);
  ++reasons_[room ? reason : "other reasons"];
}

std::vector<std::pair<std::string, int64_t>> Failures::rows() const {
  std::vector<std::pair<std::string, int64_t>> rows(reasons_.begin(), reasons_.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return rows;
}

void LoadFigures::add(const StreamedAnswer& answer, int64_t asked, std::optional<int64_t> prompt) {
  ++completed;
  asked_tokens += asked;
  if (!answer.output_tokens()) ++without_usage;
  const int64_t tokens = answer.output_tokens().value_or(answer.token_events());
  output_tokens += tokens;
  prompt_tokens += answer.prompt_tokens().value_or(prompt.value_or(0));
  e2e.add(answer.end());
  if (answer.token_events() == 0) return;
  ttft.add(answer.first_token());
  for (const float gap : answer.gaps()) itl.add(gap);
  if (tokens > 1 && answer.token_events() > 1) {
    tpot.add((answer.last_token() - answer.first_token()) / static_cast<double>(tokens - 1));
  }
}

std::string load_report(const LoadTitle& title, const LoadFigures& figures) {
  std::string out = fmt::format(
      "{}, {}, {}\n{}, {} requests{}\n", title.url, title.model, title.endpoint,
      title.concurrency > 0 ? fmt::format("{} at a time", title.concurrency)
                            : fmt::format("{} requests/s, Poisson arrivals", title.rate),
      title.requests, figures.interrupted ? ", interrupted" : "");
  out +=
      fmt::format("{} completed, {} failed in {:.2f} s, at most {} in flight\n", figures.completed,
                  figures.failures.count(), figures.seconds, figures.peak_in_flight);
  out += fmt::format(
      "{} prompt tokens, {} output tokens\n"
      "{:.2f} requests/s, {:.1f} output tokens/s, {:.1f} tokens/s in all\n",
      figures.prompt_tokens, figures.output_tokens, per_second(figures.completed, figures),
      per_second(figures.output_tokens, figures),
      per_second(figures.prompt_tokens + figures.output_tokens, figures));
  if (figures.completed > 0) {
    out += fmt::format("\n{:<24}{:>11}{:>11}{:>11}{:>11}\n", "milliseconds", "mean", "p50", "p90",
                       "p99");
  }
  for (const Line& line : lines_of(figures)) {
    if (line.samples->count() == 0) continue;
    out += fmt::format("{:<24}{:>11.2f}", line.name, line.samples->mean() * 1e3);
    for (const double value : line.samples->percentiles(kShares)) {
      out += fmt::format("{:>11.2f}", value * 1e3);
    }
    out += '\n';
  }
  if (figures.failures.count() > 0) out += "\nfailed:\n";
  for (const auto& [reason, count] : figures.failures.rows()) {
    out += fmt::format("{:>8}  {}\n", count, reason);
  }
  for (const std::string& remark : remarks(figures)) out += fmt::format("\n{}\n", remark);
  return out;
}

std::string load_json(const LoadTitle& title, const LoadFigures& figures) {
  json::object root{{"url", title.url},
                    {"model", title.model},
                    {"endpoint", title.endpoint},
                    {"requests", title.requests}};
  if (title.concurrency > 0) {
    root["concurrency"] = title.concurrency;
  } else {
    root["rate"] = title.rate;
  }
  root["interrupted"] = figures.interrupted;
  root["completed"] = figures.completed;
  root["failed"] = figures.failures.count();
  json::array failures;
  for (const auto& [reason, count] : figures.failures.rows()) {
    failures.push_back(json::object{{"reason", reason}, {"count", count}});
  }
  root["failures"] = std::move(failures);
  root["seconds"] = figures.seconds;
  root["peak_in_flight"] = figures.peak_in_flight;
  root["late_ms"] = figures.late * 1e3;
  root["prompt_tokens"] = figures.prompt_tokens;
  root["output_tokens"] = figures.output_tokens;
  root["answers_without_usage"] = figures.without_usage;
  root["requests_per_s"] = per_second(figures.completed, figures);
  root["output_tokens_per_s"] = per_second(figures.output_tokens, figures);
  root["total_tokens_per_s"] = per_second(figures.prompt_tokens + figures.output_tokens, figures);
  for (const Line& line : lines_of(figures)) {
    if (line.samples->count() == 0) {
      root[line.key] = nullptr;
      continue;
    }
    const std::vector<double> at = line.samples->percentiles(kShares);
    root[line.key] = json::object{{"mean", line.samples->mean() * 1e3},
                                  {"p50", at[0] * 1e3},
                                  {"p90", at[1] * 1e3},
                                  {"p99", at[2] * 1e3}};
  }
  return json::serialize(root);
}

}  // namespace moesaic::cli
