#pragma once

// Metrics are a table: one row each, read by /metrics, docs/metrics.md and the tests. Names are
// vLLM's, so that existing dashboards work, and moesaic:... for what only this program knows.

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace prometheus {
class Histogram;
}

namespace moesaic::base {

enum class MetricKind : uint8_t { kCounter, kGauge, kHistogram };

struct MetricRow {
  std::string_view name;  ///< as exposed, counters with "_total"
  MetricKind kind;
  std::string_view labels;  ///< label names beside the constant ones, comma-separated
  std::string_view
      buckets;  ///< histogram bounds "0.1,0.5,1", or "lengths" for 1,2,5,10.. max_model_len
  std::string_view help;
};

std::span<const MetricRow> metric_rows();

/// Live values of the table's rows. All methods are thread-safe.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  /// `constant` labels (model_name, engine) go on every series; `max_length` ends "lengths"
  /// buckets.
  Metrics(const Labels& constant, int64_t max_length);
  ~Metrics();

  /// Adds to a counter. The row must exist with that kind, and `labels` must name exactly its
  /// labels.
  void add(std::string_view name, double amount, const Labels& labels = {});
  /// Brings a counter up to `total` (for counters kept elsewhere); never lowers it.
  void raise_to(std::string_view name, double total, const Labels& labels = {});
  void set(std::string_view name, double value, const Labels& labels = {});
  void observe(std::string_view name, double value, const Labels& labels = {});

  /// One series of a histogram, found once: for values that come with every step.
  class Histogram {
   public:
    /// Takes them all under one lock.
    void observe_all(std::span<const double> values);
    void observe(double value) { observe_all(std::span(&value, 1)); }

   private:
    friend class Metrics;
    prometheus::Histogram* series_ = nullptr;
    const std::vector<double>* bounds_ = nullptr;
    std::vector<double> increments_;  ///< per bucket; kept for the next call
  };
  /// Valid while this lives. Each handle is used by one thread at a time.
  Histogram histogram(std::string_view name, const Labels& labels = {});

  /// Prometheus text format 0.0.4.
  std::string expose() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// docs/metrics.md, generated from the table.
std::string metrics_markdown();

}  // namespace moesaic::base
