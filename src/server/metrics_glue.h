#pragma once

// From the engine's counters and events to the metrics table.

#include <memory>

#include "base/metrics.h"
#include "base/settings.h"
#include "engine/engine.h"
#include "model/spec.h"

namespace moesaic::server {

/// Brings counters and gauges up to the engine's own; called at every scrape. `spec` says which of
/// the model's layers have the experts that the engine counted.
void publish_stats(base::Metrics& metrics, const engine::EngineStats& stats,
                   const model::ModelSpec& spec);

/// What does not change while the server runs.
void publish_facts(base::Metrics& metrics, const base::Settings& settings,
                   const engine::EngineStats& stats, int64_t sliding_window);

}  // namespace moesaic::server
