#include "server/answer_format.h"

namespace moesaic::server {
namespace {

class CompletionFormat : public AnswerFormat {
 public:
  CompletionFormat(const GenerationRequest& accepted, const TokenNames& names)
      : accepted_(accepted), names_(names) {}

  std::string events(ChoiceState& choice, const ChoiceDelta& delta, const PromptState& prompt,
                     bool last, ByteShare& held) override;
  std::string stream_end(const Usage& usage) override {
    return write_stream_end(accepted_, "text_completion", usage);
  }
  std::string whole(std::span<ChoiceState> choices, std::span<const PromptState> prompts,
                    const Usage& usage, ByteShare& held) override;

 private:
  void write_logprobs(JsonWriter& json, ByteShare& held, const GenerationRequest::Prompt& prompt,
                      const PromptState& state, bool echo,
                      std::span<const engine::PositionLogprobs> positions,
                      std::span<const int64_t> offsets);
  void write_choice(JsonWriter& json, ByteShare& held, const ChoiceState& choice,
                    const PromptState& state);

  const GenerationRequest& accepted_;
  const TokenNames& names_;
};

void CompletionFormat::write_logprobs(JsonWriter& json, ByteShare& held,
                                      const GenerationRequest::Prompt& prompt,
                                      const PromptState& state, bool echo,
                                      std::span<const engine::PositionLogprobs> positions,
                                      std::span<const int64_t> offsets) {
  json.key("logprobs");
  if (accepted_.sampling.logprobs < 0) {
    json.null();
    return;
  }
  CompletionLogprobs lists(names_, held);
  if (echo) {
    lists.add_unknown(prompt.ids.front(), state.offsets.front());
    lists.add(state.logprobs, std::span(state.offsets).subspan(1));
  }
  lists.add(positions, offsets);
  lists.write(json);
}

std::string CompletionFormat::events(ChoiceState& choice, const ChoiceDelta& delta,
                                     const PromptState& state, bool last, ByteShare& held) {
  const GenerationRequest::Prompt& prompt = accepted_.prompts[static_cast<size_t>(choice.prompt)];
  const bool first = !choice.started;
  const bool echo = first && accepted_.echo;
  choice.started = true;
  const std::string text = echo ? prompt.text + delta.text : delta.text;
  JsonWriter json(&held);
  json.begin_object();
  write_identity(json, accepted_.identity, "text_completion");
  json.key("choices").begin_array().begin_object();
  json.member("index", int64_t{choice.index}).member("text", text);
  write_logprobs(json, held, prompt, state, echo, delta.logprobs, delta.offsets);
  write_choice_end(json, choice.end, true);
  json.key("prompt_token_ids");
  if (first && accepted_.return_token_ids) {
    json.integers(prompt.ids);
  } else {
    json.null();
  }
  json.key("token_ids");
  if (accepted_.return_token_ids) {
    json.integers(delta.tokens);
  } else {
    json.null();
  }
  json.end_object().end_array();
  write_event_tail(json, accepted_, choice, last);
  return sse_event(json.take());
}

void CompletionFormat::write_choice(JsonWriter& json, ByteShare& held, const ChoiceState& choice,
                                    const PromptState& state) {
  const GenerationRequest::Prompt& prompt = accepted_.prompts[static_cast<size_t>(choice.prompt)];
  json.begin_object().member("index", int64_t{choice.index});
  json.member("text", accepted_.echo ? prompt.text + choice.text : choice.text);
  write_logprobs(json, held, prompt, state, accepted_.echo, choice.logprobs, choice.offsets);
  write_choice_end(json, choice.end, true);
  json.key("token_ids");
  if (accepted_.return_token_ids) {
    json.integers(choice.tokens);
  } else {
    json.null();
  }
  json.key("prompt_logprobs");
  if (accepted_.sampling.prompt_logprobs >= 0) {
    write_prompt_logprobs(json, names_, state.logprobs);
  } else {
    json.null();
  }
  json.key("prompt_token_ids");
  if (accepted_.return_token_ids) {
    json.integers(prompt.ids);
  } else {
    json.null();
  }
  json.member_null("routed_experts").end_object();
}

std::string CompletionFormat::whole(std::span<ChoiceState> choices,
                                    std::span<const PromptState> prompts, const Usage& usage,
                                    ByteShare& held) {
  JsonWriter json(&held);
  json.begin_object();
  write_identity(json, accepted_.identity, "text_completion");
  json.key("choices").begin_array();
  for (ChoiceState& choice : choices) {
    write_choice(json, held, choice, prompts[static_cast<size_t>(choice.prompt)]);
    choice.drop_content();
  }
  json.end_array();
  write_tail(json, usage);
  json.member_null("kv_transfer_params").member_null("ec_transfer_params").member_null("metrics");
  json.end_object();
  return json.take();
}

}  // namespace

std::unique_ptr<AnswerFormat> completion_format(const GenerationRequest& accepted,
                                                const TokenNames& names) {
  return std::make_unique<CompletionFormat>(accepted, names);
}

Usage usage_of(const GenerationRequest& accepted, const ChoiceState& choice) {
  const auto& ids = accepted.prompts[static_cast<size_t>(choice.prompt)].ids;
  return {static_cast<int64_t>(ids.size()), choice.generated, std::nullopt};
}

void write_event_tail(JsonWriter& json, const GenerationRequest& accepted,
                      const ChoiceState& choice, bool last) {
  if (accepted.continuous_usage) {
    json.key("usage");
    write_usage(json, usage_of(accepted, choice), false);
  }
  if (last && !accepted.include_usage) json.member("system_fingerprint", system_fingerprint());
  json.end_object();
}

std::string write_stream_end(const GenerationRequest& accepted, std::string_view object,
                             const Usage& usage) {
  std::string out;
  if (accepted.include_usage) {
    JsonWriter json;
    json.begin_object();
    write_identity(json, accepted.identity, object);
    json.key("choices").begin_array().end_array().key("usage");
    write_usage(json, usage, false);
    json.member("system_fingerprint", system_fingerprint()).end_object();
    out = sse_event(json.take());
  }
  out += kSseDone;
  return out;
}

}  // namespace moesaic::server
