#include "base/metrics.h"

#include <fmt/format.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <set>

#include "base/error.h"

namespace moesaic::base {
namespace {

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = text.find(',');
    parts.emplace_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  return parts;
}

/// 1, 2, 5, 10, 20, 50, ... up to `limit`.
std::vector<double> length_bounds(int64_t limit) {
  std::vector<double> bounds;
  for (int64_t decade = 1; decade <= limit; decade *= 10) {
    for (int64_t step : {1, 2, 5}) {
      if (decade * step <= limit) bounds.push_back(static_cast<double>(decade * step));
    }
  }
  return bounds;
}

std::vector<double> bounds_of(const MetricRow& row, int64_t max_length) {
  if (row.buckets == "lengths") return length_bounds(max_length);
  std::vector<double> bounds;
  for (const std::string& text : split_list(row.buckets)) {
    double value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    bounds.push_back(value);
  }
  return bounds;
}

}  // namespace

struct Metrics::Impl {
  template <typename T>
  using Families = std::map<std::string, prometheus::Family<T>*, std::less<>>;

  prometheus::Registry registry;
  Families<prometheus::Counter> counters;
  Families<prometheus::Gauge> gauges;
  Families<prometheus::Histogram> histograms;
  std::map<std::string, std::vector<double>, std::less<>> bounds;
  std::map<std::string, std::set<std::string>, std::less<>> label_names;
  std::mutex raising;

  template <typename T>
  prometheus::Family<T>& family(const Families<T>& families, std::string_view name,
                                const Labels& labels) {
    const auto found = families.find(name);
    MOESAIC_ASSERT(found != families.end());
    const auto& expected = label_names.find(name)->second;
    MOESAIC_ASSERT(labels.size() == expected.size());
    for (const auto& [label, value] : labels) MOESAIC_ASSERT(expected.contains(label));
    return *found->second;
  }
};

Metrics::Metrics(const Labels& constant, int64_t max_length) : impl_(std::make_unique<Impl>()) {
  for (const MetricRow& row : metric_rows()) {
    const std::string name(row.name);
    const std::string help(row.help);
    const auto labels = split_list(row.labels);
    impl_->label_names[name] = {labels.begin(), labels.end()};
    switch (row.kind) {
      case MetricKind::kCounter: {
        auto& family = prometheus::BuildCounter().Name(name).Help(help).Labels(constant).Register(
            impl_->registry);
        impl_->counters[name] = &family;
        if (labels.empty()) family.Add({});
        break;
      }
      case MetricKind::kGauge: {
        auto& family = prometheus::BuildGauge().Name(name).Help(help).Labels(constant).Register(
            impl_->registry);
        impl_->gauges[name] = &family;
        if (labels.empty()) family.Add({});
        break;
      }
      case MetricKind::kHistogram: {
        auto& family = prometheus::BuildHistogram().Name(name).Help(help).Labels(constant).Register(
            impl_->registry);
        impl_->histograms[name] = &family;
        impl_->bounds[name] = bounds_of(row, max_length);
        if (labels.empty()) family.Add({}, impl_->bounds[name]);
        break;
      }
    }
  }
}

Metrics::~Metrics() = default;

void Metrics::add(std::string_view name, double amount, const Labels& labels) {
  impl_->family(impl_->counters, name, labels).Add(labels).Increment(amount);
}

void Metrics::raise_to(std::string_view name, double total, const Labels& labels) {
  auto& counter = impl_->family(impl_->counters, name, labels).Add(labels);
  std::lock_guard lock(impl_->raising);
  if (const double missing = total - counter.Value(); missing > 0) counter.Increment(missing);
}

void Metrics::set(std::string_view name, double value, const Labels& labels) {
  impl_->family(impl_->gauges, name, labels).Add(labels).Set(value);
}

void Metrics::observe(std::string_view name, double value, const Labels& labels) {
  histogram(name, labels).observe(value);
}

Metrics::Histogram Metrics::histogram(std::string_view name, const Labels& labels) {
  auto& family = impl_->family(impl_->histograms, name, labels);
  Histogram histogram;
  histogram.bounds_ = &impl_->bounds.find(name)->second;
  histogram.series_ = &family.Add(labels, *histogram.bounds_);
  return histogram;
}

void Metrics::Histogram::observe_all(std::span<const double> values) {
  if (values.empty()) return;
  increments_.assign(bounds_->size() + 1, 0);
  double sum = 0;
  for (const double value : values) {
    // A bucket holds what is at most its bound; the last one has none.
    const auto bound = std::lower_bound(bounds_->begin(), bounds_->end(), value);
    ++increments_[static_cast<size_t>(bound - bounds_->begin())];
    sum += value;
  }
  series_->ObserveMultiple(increments_, sum);
}

std::string Metrics::expose() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

std::string metrics_markdown() {
  std::string out =
      "# Metrics\n\n"
      "Served at `/metrics` in the Prometheus text format. Written from the table in\n"
      "`src/base/metrics_table.cpp` by `moesaic docs metrics`; a test fails when the two differ.\n"
      "Names that start with `vllm:` mean what they mean there, so that dashboards and alerts made "
      "for\n"
      "it go on working. Every series also carries `model_name` and `engine`. A bucket list of\n"
      "*lengths* is 1, 2, 5, 10, 20, 50, ... up to the model's longest sequence.\n\n"
      "| name | kind | labels | buckets | meaning |\n|---|---|---|---|---|\n";
  for (const MetricRow& row : metric_rows()) {
    const std::string_view kind = row.kind == MetricKind::kCounter ? "counter"
                                  : row.kind == MetricKind::kGauge ? "gauge"
                                                                   : "histogram";
    std::string buckets(row.buckets);
    for (size_t at = 0; (at = buckets.find(',', at)) != std::string::npos; at += 2) {
      buckets.insert(at + 1, " ");
    }
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", row.name, kind, row.labels, buckets,
                       row.help);
  }
  return out;
}

}  // namespace moesaic::base
