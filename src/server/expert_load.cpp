#include "server/expert_load.h"

#include "server/json_writer.h"

namespace moesaic::server {
namespace {

constexpr std::chrono::milliseconds kWindow{2000};

void write_table(JsonWriter& json, const char* name, const std::vector<uint64_t>& counts,
                 int64_t layers, int64_t experts, const std::vector<uint64_t>* minus) {
  json.key(name).begin_array();
  size_t at = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    json.begin_array();
    for (int64_t expert = 0; expert < experts; ++expert, ++at) {
      const uint64_t count = at < counts.size() ? counts[at] : 0;
      const uint64_t before = minus != nullptr && at < minus->size() ? (*minus)[at] : 0;
      json.unsigned_integer(count - before);
    }
    json.end_array();
  }
  json.end_array();
}

void write_model(JsonWriter& json, const ServedModel& model) {
  const auto count = model::count_parameters(model.spec);
  json.key("model").begin_object();
  json.member("name", model.names.front()).member("architecture", model.spec.architecture);
  json.member("family", model.spec.family);
  json.member("layers", static_cast<int64_t>(model.spec.layers.size()));
  json.member("total_params", count.total).member("active_params", count.active);
  json.member("max_model_len", model.max_model_len).end_object();
  // Which of the model's layers a row of the tables stands for.
  json.key("layer_numbers").begin_array();
  for (size_t layer = 0; layer < model.spec.layers.size(); ++layer) {
    if (model.spec.layers[layer].ffn.moe) json.integer(static_cast<int64_t>(layer));
  }
  json.end_array();
}

}  // namespace

void ExpertLoad::sample(const engine::EngineStats& stats, TimePoint now) {
  std::lock_guard lock(mutex_);
  // The newest sample that is older than the window stays: the window starts there.
  while (samples_.size() > 1 && samples_[1].time <= now - kWindow) samples_.pop_front();
  samples_.push_back({now, stats.generated_tokens, stats.expert_tokens});
}

std::string ExpertLoad::json(const engine::EngineStats& stats, const ServedModel& model,
                             TimePoint now) const {
  Sample start{now, stats.generated_tokens, stats.expert_tokens};
  {
    std::lock_guard lock(mutex_);
    for (const Sample& sample : samples_) {
      start = sample;
      if (sample.time > now - kWindow) break;
    }
  }
  const std::chrono::duration<double> window = now - start.time;
  // The engine knows the tables' shape from its first step on; before, the spec says it.
  const bool counted = !stats.expert_tokens.empty();
  const int64_t layers = counted ? stats.moe_layers : model.spec.moe_layers();
  const int64_t experts = counted ? stats.experts : model.spec.max_experts();
  JsonWriter json;
  json.begin_object();
  json.member("layers", layers).member("experts", experts);
  json.member("top_k", model.spec.max_top_k());
  write_table(json, "total", stats.expert_tokens, layers, experts, nullptr);
  write_table(json, "recent", stats.expert_tokens, layers, experts, &start.counts);
  json.member("recent_seconds", window.count());
  json.member("running", stats.running).member("waiting", stats.waiting);
  const auto generated = static_cast<double>(stats.generated_tokens - start.generated);
  json.member("tokens_per_second", window.count() > 0 ? generated / window.count() : 0.0);
  write_model(json, model);
  json.end_object();
  return json.take();
}

}  // namespace moesaic::server
