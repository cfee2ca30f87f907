#include <algorithm>
#include <iterator>

#include "server/answer_format.h"

namespace moesaic::server {
namespace {

class ChatFormat : public AnswerFormat {
 public:
  ChatFormat(const GenerationRequest& accepted, const TokenNames& names)
      : accepted_(accepted), names_(names) {}

  std::string events(ChoiceState& choice, const ChoiceDelta& delta, const PromptState& prompt,
                     bool last, ByteShare& held) override;
  std::string stream_end(const Usage& usage) override {
    return write_stream_end(accepted_, "chat.completion.chunk", usage);
  }
  std::string whole(std::span<ChoiceState> choices, std::span<const PromptState> prompts,
                    const Usage& usage, ByteShare& held) override;

 private:
  /// What a text is made of.
  struct Pieces {
    std::string reasoning, content;
    std::vector<ToolCall> calls;
  };
  Pieces split(ChoiceState& choice, const std::string& text, bool end) const;
  void open_event(JsonWriter& json, const ChoiceState& choice) const;
  std::string role_event(const ChoiceState& choice) const;
  std::string text_event(const ChoiceState& choice, const char* member,
                         std::string_view text) const;
  std::string call_events(ChoiceState& choice, std::span<const ToolCall> calls) const;
  std::string last_event(const ChoiceState& choice, std::string_view content,
                         const ChoiceDelta& delta, bool last) const;
  void write_logprobs(JsonWriter& json, std::span<const engine::PositionLogprobs> positions) const;
  void write_choice(JsonWriter& json, ChoiceState& choice) const;
  void write_prompt(JsonWriter& json, bool whole) const;

  const GenerationRequest& accepted_;
  const TokenNames& names_;
};

ChatFormat::Pieces ChatFormat::split(ChoiceState& choice, const std::string& text, bool end) const {
  Pieces out;
  ReasoningParser::Pieces parts = choice.reasoning.add(text);
  if (end) {
    ReasoningParser::Pieces rest = choice.reasoning.end();
    parts.reasoning += rest.reasoning;
    parts.answer += rest.answer;
  }
  if (accepted_.include_reasoning) out.reasoning = std::move(parts.reasoning);
  if (!accepted_.parse_tool_calls) {
    out.content = std::move(parts.answer);
    return out;
  }
  const auto take = [&](ToolCallParser::Pieces pieces) {
    out.content += pieces.content;
    std::move(pieces.calls.begin(), pieces.calls.end(), std::back_inserter(out.calls));
  };
  take(choice.tools.add(parts.answer));
  if (end) take(choice.tools.end());
  if (!accepted_.parallel_tool_calls) {
    const size_t room = choice.shown_calls > 0 ? 0 : 1;
    if (out.calls.size() > room) out.calls.resize(room);
  }
  return out;
}

void ChatFormat::open_event(JsonWriter& json, const ChoiceState& choice) const {
  json.begin_object();
  write_identity(json, accepted_.identity, "chat.completion.chunk");
  json.key("choices").begin_array().begin_object();
  json.member("index", int64_t{choice.index}).key("delta").begin_object();
}

/// prompt_token_ids and prompt_text.
void ChatFormat::write_prompt(JsonWriter& json, bool whole) const {
  const GenerationRequest::Prompt& prompt = accepted_.prompts.front();
  json.key("prompt_token_ids");
  if (accepted_.return_token_ids) {
    json.integers(prompt.ids);
  } else {
    json.null();
  }
  json.key("prompt_text");
  if (accepted_.return_prompt_text) {
    json.string(prompt.text);
  } else {
    json.null();
  }
  if (whole) {
    json.member_null("kv_transfer_params").member_null("ec_transfer_params").member_null("metrics");
  }
}

std::string ChatFormat::role_event(const ChoiceState& choice) const {
  JsonWriter json;
  open_event(json, choice);
  json.member("role", accepted_.role).member("content", "").end_object();
  json.member_null("logprobs").member_null("finish_reason").end_object().end_array();
  write_prompt(json, false);
  ChoiceState none = {};
  none.prompt = choice.prompt;
  write_event_tail(json, accepted_, none, false);
  return sse_event(json.take());
}

std::string ChatFormat::text_event(const ChoiceState& choice, const char* member,
                                   std::string_view text) const {
  JsonWriter json;
  open_event(json, choice);
  json.member(member, text).end_object();
  json.member_null("logprobs").member_null("finish_reason").end_object().end_array();
  write_event_tail(json, accepted_, choice, false);
  return sse_event(json.take());
}

/// A call opens with its name; its arguments follow in an event of their own, as clients that
/// collect fragments expect.
std::string ChatFormat::call_events(ChoiceState& choice, std::span<const ToolCall> calls) const {
  std::string out;
  for (const ToolCall& call : calls) {
    const int64_t index = choice.shown_calls++;
    JsonWriter json;
    open_event(json, choice);
    const ToolCall opening{call.name, "", call.id};
    json.key("tool_calls");
    write_tool_calls(json, std::span(&opening, 1), index);
    json.end_object().member_null("logprobs").member_null("finish_reason");
    json.end_object().end_array();
    write_event_tail(json, accepted_, choice, false);
    out += sse_event(json.take());

    JsonWriter rest;
    open_event(rest, choice);
    rest.key("tool_calls").begin_array().begin_object().member("index", index);
    rest.key("function").begin_object().member("arguments", call.arguments).end_object();
    rest.end_object().end_array();
    rest.end_object().member_null("logprobs").member_null("finish_reason");
    rest.end_object().end_array();
    write_event_tail(rest, accepted_, choice, false);
    out += sse_event(rest.take());
  }
  return out;
}

void ChatFormat::write_logprobs(JsonWriter& json,
                                std::span<const engine::PositionLogprobs> positions) const {
  json.key("logprobs");
  if (accepted_.sampling.logprobs < 0 || positions.empty()) {
    json.null();
  } else {
    write_chat_logprobs(json, names_, positions, accepted_.sampling.logprobs);
  }
}

std::string ChatFormat::last_event(const ChoiceState& choice, std::string_view content,
                                   const ChoiceDelta& delta, bool last) const {
  JsonWriter json;
  open_event(json, choice);
  if (!content.empty()) json.member("content", content);
  json.end_object();
  write_logprobs(json, delta.logprobs);
  write_choice_end(json, choice.end, !choice.end.finish_reason.empty());
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

std::string ChatFormat::events(ChoiceState& choice, const ChoiceDelta& delta,
                               const PromptState& prompt, bool last, ByteShare& held) {
  std::string out;
  if (!choice.started) {
    choice.started = true;
    out += role_event(choice);
    if (accepted_.echo && !accepted_.echo_text.empty())
      out += text_event(choice, "content", accepted_.echo_text);
  }
  const Pieces pieces = split(choice, delta.text, choice.done);
  if (!pieces.reasoning.empty()) out += text_event(choice, "reasoning", pieces.reasoning);
  // Content before a call stays before it.
  const bool calls = !pieces.calls.empty();
  if (calls && !pieces.content.empty()) out += text_event(choice, "content", pieces.content);
  out += call_events(choice, pieces.calls);
  if (choice.done && choice.end.finish_reason == "stop" && choice.shown_calls > 0 &&
      !accepted_.named_call) {
    choice.end.finish_reason = "tool_calls";
  }
  const std::string_view content = calls ? std::string_view() : std::string_view(pieces.content);
  const bool worth_saying = !content.empty() || choice.done || !delta.logprobs.empty() ||
                            accepted_.return_token_ids || accepted_.continuous_usage;
  if (worth_saying) out += last_event(choice, content, delta, last);
  return out;
}

void ChatFormat::write_choice(JsonWriter& json, ChoiceState& choice) const {
  const Pieces pieces = split(choice, choice.text, true);
  if (!pieces.calls.empty() && choice.end.finish_reason == "stop" && !accepted_.named_call) {
    choice.end.finish_reason = "tool_calls";
  }
  const std::string content =
      accepted_.echo ? accepted_.echo_text + pieces.content : pieces.content;
  json.begin_object().member("index", int64_t{choice.index});
  json.key("message").begin_object().member("role", accepted_.role).key("content");
  if (content.empty() && (!pieces.calls.empty() || !pieces.reasoning.empty())) {
    json.null();
  } else {
    json.string(content);
  }
  for (const char* name : {"refusal", "annotations", "audio", "function_call"}) {
    json.member_null(name);
  }
  if (!pieces.calls.empty()) {
    json.key("tool_calls");
    write_tool_calls(json, pieces.calls, -1);
  }
  json.key("reasoning");
  if (pieces.reasoning.empty()) {
    json.null();
  } else {
    json.string(pieces.reasoning);
  }
  json.end_object();
  write_logprobs(json, choice.logprobs);
  write_choice_end(json, choice.end, true);
  json.key("token_ids");
  if (accepted_.return_token_ids) {
    json.integers(choice.tokens);
  } else {
    json.null();
  }
  json.member_null("routed_experts").end_object();
}

std::string ChatFormat::whole(std::span<ChoiceState> choices, std::span<const PromptState> prompts,
                              const Usage& usage, ByteShare& held) {
  JsonWriter json(&held);
  json.begin_object();
  write_identity(json, accepted_.identity, "chat.completion");
  json.key("choices").begin_array();
  for (ChoiceState& choice : choices) {
    write_choice(json, choice);
    choice.drop_content();
  }
  json.end_array();
  write_tail(json, usage);
  json.key("prompt_logprobs");
  if (accepted_.sampling.prompt_logprobs >= 0) {
    write_prompt_logprobs(json, names_, prompts.front().logprobs);
  } else {
    json.null();
  }
  write_prompt(json, true);
  json.end_object();
  return json.take();
}

}  // namespace

std::unique_ptr<AnswerFormat> chat_format(const GenerationRequest& accepted,
                                          const TokenNames& names) {
  return std::make_unique<ChatFormat>(accepted, names);
}

}  // namespace moesaic::server
