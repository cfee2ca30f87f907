#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "plan/render.h"

namespace moesaic::plan {

namespace {

namespace json = boost::json;

json::value maybe(const std::optional<double>& number) {
  return number ? json::value(*number) : json::value(nullptr);
}

json::value maybe_int(const std::optional<int64_t>& number) {
  return number ? json::value(*number) : json::value(nullptr);
}

json::array strings(const std::vector<std::string>& list) {
  json::array out;
  for (const std::string& text : list) out.emplace_back(text);
  return out;
}

json::object estimate_object(const Estimate& estimate) {
  return {{"tokens_per_s", estimate.tokens_per_s},
          {"ideal_tokens_per_s", estimate.ideal_tokens_per_s},
          {"tokens_per_s_per_user", estimate.per_user},
          {"step_seconds", estimate.step_seconds},
          {"bound", to_string(estimate.bound)},
          {"memory_seconds", estimate.memory_seconds},
          {"arithmetic_seconds", estimate.arithmetic_seconds},
          {"link_seconds", estimate.link_seconds},
          {"fixed_seconds", estimate.fixed_seconds},
          {"distinct_experts", estimate.distinct_experts}};
}

/// Null where nothing was estimated: no layout was possible, or the device is this CPU.
json::value rate(double number) { return number > 0 ? json::value(number) : json::value(nullptr); }

json::value estimate_value(const Estimate& estimate) {
  return estimate.step_seconds > 0 ? json::value(estimate_object(estimate)) : json::value(nullptr);
}

json::object model_object(const Plan& plan) {
  const ResolvedModel& model = plan.inputs.model;
  const model::ParameterCount& count = plan.parameters;
  return {{"name", model.name},
          {"asked", model.asked},
          {"relation", model.relation},
          {"source", model.source},
          {"recalled", strings(model.recalled)},
          {"family", model.spec.family},
          {"can_serve", model.spec.not_served.empty()},
          {"not_served", model.spec.not_served},
          {"published_quantization", model.spec.quantization.method},
          {"published_quantization_found", model.spec.quantization.found},
          {"total_params", count.total},
          {"active_params", count.active},
          {"params",
           {{"embeddings", count.embeddings},
            {"attention", count.attention},
            {"norms", count.norms},
            {"routers", count.routers},
            {"dense_ffn", count.dense_ffn},
            {"shared_experts", count.shared_experts},
            {"experts", count.experts},
            {"encoder", count.encoder}}},
          {"layers", model.spec.layers.size()},
          {"moe_layers", model.spec.moe_layers()},
          {"experts", model.spec.max_experts()},
          {"experts_per_token", model.spec.max_top_k()},
          {"max_position", model.spec.max_position},
          {"kv_bytes_per_token", plan.kv_bytes_per_token},
          {"kv_bytes_per_token_past_windows", plan.kv_bytes_past_windows},
          {"state_bytes_per_sequence", plan.state_bytes},
          {"kv_bytes_per_token_without_sharing", plan.mha_bytes_per_token}};
}

json::object inputs_object(const Plan& plan) {
  const PlanInputs& inputs = plan.inputs;
  return {{"engine", inputs.engine},
          {"context", plan.load.context},
          {"prompt_tokens", plan.load.prompt},
          {"output_tokens", plan.load.output},
          {"concurrency", maybe_int(plan.load.concurrency)},
          {"dtype", inputs.dtype},
          {"quantization", quantization_name(plan.format)},
          {"kv_cache_dtype", inputs.kv_cache_dtype},
          {"utilization", inputs.utilization},
          {"budget_usd_per_hour", maybe(inputs.budget)},
          {"step_tokens", inputs.step_rows}};
}

json::object memory_object(const MemoryTerms& terms) {
  json::object out;
  for (const NamedTerm& term : named_terms(terms)) out[term.key] = term.bytes;
  out["total"] = terms.total();
  return out;
}

json::object candidate_object(const Candidate& candidate) {
  json::array capacity;
  for (const auto& [length, sequences] : candidate.capacity) {
    capacity.push_back({{"tokens", length}, {"sequences", sequences}});
  }
  json::array decode_at;
  for (const auto& [batch, estimate] : candidate.decode_at) {
    json::object one = estimate_object(estimate);
    one["sequences"] = batch;
    decode_at.push_back(std::move(one));
  }
  const std::optional<double> month =
      candidate.usd_per_hour_instances
          ? std::optional(*candidate.usd_per_hour_instances * kHoursPerMonth)
          : std::nullopt;
  return {{"instance", candidate.instance},
          {"accelerator", candidate.accelerator},
          {"vendor", candidate.vendor},
          {"engine", candidate.engine},
          {"engine_runs", candidate.engine_runs},
          {"nodes", candidate.nodes},
          {"tp", candidate.tp},
          {"ep", candidate.ep},
          {"pp", candidate.pp},
          {"devices", candidate.devices},
          {"instance_devices", candidate.instance_devices},
          {"flags", parallel_flags(candidate)},
          {"fits", candidate.fits},
          {"recommendable", candidate.recommendable},
          {"reason", candidate.reason},
          {"smaller", strings(candidate.smaller)},
          {"notes", strings(candidate.notes)},
          {"device_bytes", candidate.device_bytes},
          {"memory", memory_object(candidate.per_device)},
          {"kv_needed_bytes", candidate.kv_needed},
          {"kv_tokens", candidate.kv_tokens},
          {"max_model_len", candidate.max_model_len},
          {"sequences", candidate.sequences},
          {"capacity", std::move(capacity)},
          {"concurrency", candidate.concurrency},
          {"decode_tokens_per_s", rate(candidate.decode.tokens_per_s)},
          {"served_tokens_per_s", rate(candidate.served_tokens_per_s)},
          {"prefill_tokens_per_s", rate(candidate.prefill.tokens_per_s)},
          {"first_token_seconds", rate(candidate.first_token_seconds)},
          {"decode", estimate_value(candidate.decode)},
          {"prefill", estimate_value(candidate.prefill)},
          {"decode_at", std::move(decode_at)},
          {"share", candidate.share},
          {"usd_per_hour", maybe(candidate.usd_per_hour)},
          {"usd_per_hour_instances", maybe(candidate.usd_per_hour_instances)},
          {"usd_per_month", maybe(month)},
          {"usd_per_million_tokens", maybe(candidate.usd_per_million_tokens)},
          {"usd_per_million_tokens_share", maybe(candidate.usd_per_million_tokens_share)},
          {"price_date", candidate.price_date},
          {"price_source", candidate.price_source},
          {"load_seconds", rate(candidate.load_seconds)}};
}

}  // namespace

std::string to_json(const Plan& plan) {
  json::array candidates;
  for (const Candidate& candidate : plan.candidates) {
    candidates.push_back(candidate_object(candidate));
  }
  json::array remedies;
  for (const Remedy& remedy : plan.remedies) {
    remedies.push_back(
        {{"change", remedy.change}, {"effect", remedy.effect}, {"enough", remedy.enough}});
  }
  const json::object root = {
      {"model", model_object(plan)},
      {"weights_bytes",
       {{"bf16", plan.bf16_bytes}, {"int8", plan.int8_bytes}, {"int4", plan.int4_bytes}}},
      {"inputs", inputs_object(plan)},
      {"candidates", std::move(candidates)},
      {"recommended", plan.recommended ? json::value(*plan.recommended) : json::value(nullptr)},
      {"remedies", std::move(remedies)},
      {"remedies_for", plan.remedied && !plan.remedies.empty()
                           ? json::value(plan.candidates[*plan.remedied].instance)
                           : json::value(nullptr)},
      {"notes", strings(plan.notes)}};
  return json::serialize(root) + "\n";
}

}  // namespace moesaic::plan
