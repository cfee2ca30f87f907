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
  json.member("max_model_len", model.max_model_len);
  json.member("chat", model.tokenizer != nullptr && model.chat_template != nullptr);
  json.member("text", model.tokenizer != nullptr).end_object();
}

/// The mean of what was added between two sums; null when nothing was.
void write_mean(JsonWriter& json, const char* name, double seconds, uint64_t count) {
  if (count == 0) {
    json.member_null(name);
  } else {
    json.member(name, seconds / static_cast<double>(count));
  }
}

/// What the server did since `before`, `window` seconds ago.
void write_speed(JsonWriter& json, const engine::EngineStats& stats,
                 const engine::EngineStats& before, double window) {
  const auto generated = static_cast<double>(stats.generated_tokens - before.generated_tokens);
  json.member("recent_seconds", window);
  json.member("tokens_per_second", window > 0 ? generated / window : 0.0);
  write_mean(json, "first_token_seconds", stats.first_token_seconds - before.first_token_seconds,
             stats.first_tokens - before.first_tokens);
  write_mean(json, "inter_token_seconds", stats.next_token_seconds - before.next_token_seconds,
             stats.next_tokens - before.next_tokens);
}

}  // namespace

std::vector<int64_t> moe_layer_numbers(const model::ModelSpec& spec) {
  std::vector<int64_t> out;
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    if (spec.layers[layer].ffn.moe) out.push_back(static_cast<int64_t>(layer));
  }
  return out;
}

void ExpertLoad::sample(const engine::EngineStats& stats, TimePoint now) {
  std::lock_guard lock(mutex_);
  // The newest sample that is older than the window stays: the window starts there.
  while (samples_.size() > 1 && samples_[1].time <= now - kWindow) samples_.pop_front();
  samples_.push_back({now, stats});
}

std::string ExpertLoad::json(const engine::EngineStats& stats, const ServedModel& model,
                             int64_t started, TimePoint now) const {
  Sample start{now, stats};
  {
    std::lock_guard lock(mutex_);
    for (const Sample& sample : samples_) {
      start = sample;
      if (sample.time > now - kWindow) break;
    }
  }
  // The engine knows the tables' shape from its first step on; before, the spec says it.
  const bool counted = !stats.expert_tokens.empty();
  const int64_t layers = counted ? stats.moe_layers : model.spec.moe_layers();
  const int64_t experts = counted ? stats.experts : model.spec.max_experts();
  JsonWriter json;
  json.begin_object();
  json.member("started", started);
  json.member("layers", layers).member("experts", experts);
  json.member("top_k", model.spec.max_top_k());
  json.key("layer_numbers").begin_array();  // which of the model's layers a row stands for
  for (const int64_t layer : moe_layer_numbers(model.spec)) json.integer(layer);
  json.end_array();
  write_table(json, "total", stats.expert_tokens, layers, experts, nullptr);
  write_table(json, "recent", stats.expert_tokens, layers, experts, &start.stats.expert_tokens);
  json.member("running", stats.running).member("waiting", stats.waiting);
  write_speed(json, stats, start.stats, std::chrono::duration<double>(now - start.time).count());
  write_model(json, model);
  json.end_object();
  return json.take();
}

}  // namespace moesaic::server
