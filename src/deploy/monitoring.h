#pragma once

// What Prometheus and Grafana ask of each engine's metrics.

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "deploy/service.h"

namespace moesaic::deploy {

/// The gauge of waiting requests: what the autoscaler looks at.
std::string_view queue_metric(Engine engine);

/// An alert in PromQL.
struct Alert {
  std::string name;      ///< "InferenceQueueBacklog"
  std::string expr;      ///< with the threshold
  std::string wait;      ///< "5m"
  std::string severity;  ///< warning or critical
  std::string summary;
  std::string remedy;  ///< what to look at first
};

/// The alerts that the engine's metrics allow, over the series of this service only.
std::vector<Alert> alerts(const Service& service);

/// A graph of the dashboard: one or more series.
struct Panel {
  std::string title;
  std::string type;  ///< timeseries, stat or heatmap
  std::string unit;  ///< Grafana's name of it
  struct Query {
    std::string expr;
    std::string legend;
  };
  std::vector<Query> queries;
};
std::vector<Panel> panels(Engine engine);

/// Grafana's JSON model of the dashboard.
boost::json::object dashboard(const Service& service);

}  // namespace moesaic::deploy
