#include "server/openai_response.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

namespace moesaic::server {
namespace {

/// JSON has no infinity; vLLM writes this for a token that cannot be.
double shown(float logprob) { return std::max(static_cast<double>(logprob), -9999.0); }

void write_bytes(JsonWriter& json, std::string_view bytes) {
  json.key("bytes").begin_array();
  for (const char c : bytes) json.integer(static_cast<unsigned char>(c));
  json.end_array();
}

void write_token(JsonWriter& json, const TokenNames& names, const engine::TokenLogprob& token) {
  json.member("token", names.name(token.id)).member("logprob", shown(token.logprob));
  write_bytes(json, names.bytes(token.id));
}

}  // namespace

std::string TokenNames::name(int32_t id) const {
  return as_ids_ ? fmt::format("token_id:{}", id) : tokenizer_->token_text(id);
}

std::string TokenNames::text(int32_t id) const {
  return tokenizer_ == nullptr ? std::string() : tokenizer_->token_text(id);
}

std::string TokenNames::bytes(int32_t id) const {
  return as_ids_ ? fmt::format("token_id:{}", id) : tokenizer_->token_bytes(id);
}

std::string_view finish_name(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      return "";
    case engine::FinishReason::kStop:
      return "stop";
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kAbort:
      return "abort";
    case engine::FinishReason::kError:
      return "error";
  }
  return "";
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::vector<int64_t> prompt_offsets(const TokenNames& names,
                                    const std::shared_ptr<const text::Tokenizer>& tokenizer,
                                    std::span<const int32_t> ids, std::string_view text,
                                    bool skip_special) {
  std::vector<int64_t> offsets = {0};
  if (names.as_ids()) {
    for (const int32_t id : ids) {
      offsets.push_back(offsets.back() + count_characters(names.name(id)));
    }
    return offsets;
  }
  const int64_t size = count_characters(text);
  const auto decode = [&](bool skip) {
    text::StreamDecoder decoder(tokenizer, {}, skip);
    offsets.resize(1);
    for (const int32_t id : ids) {
      offsets.push_back(offsets.back() + count_characters(decoder.push(id)));
    }
  };
  // Special tokens may stand in the text, and others before it.
  decode(skip_special);
  if (offsets.back() != size && skip_special) decode(false);
  const int64_t before = std::max<int64_t>(offsets.back() - size, 0);
  for (int64_t& offset : offsets) offset = std::max<int64_t>(offset - before, 0);
  offsets.back() = size;
  return offsets;
}

CompletionLogprobs::CompletionLogprobs(const TokenNames& names, ByteShare& held)
    : names_(names), offsets_(&held), logprobs_(&held), tokens_(&held), tops_(&held) {
  for (JsonWriter* list : {&offsets_, &logprobs_, &tokens_, &tops_}) list->begin_array();
}

void CompletionLogprobs::add_unknown(int32_t id, int64_t offset) {
  offsets_.integer(offset);
  tokens_.string(names_.name(id));
  logprobs_.null();
  tops_.null();
}

void CompletionLogprobs::add(std::span<const engine::PositionLogprobs> positions,
                             std::span<const int64_t> offsets) {
  for (size_t i = 0; i < positions.size(); ++i) {
    const engine::PositionLogprobs& position = positions[i];
    const std::string name = names_.name(position.token.id);
    offsets_.integer(offsets[i]);
    tokens_.string(name);
    logprobs_.number(shown(position.token.logprob));
    tops_.begin_object().member(name, shown(position.token.logprob));
    std::vector<std::string> seen = {name};
    for (const engine::TokenLogprob& token : position.top) {
      std::string other = names_.name(token.id);
      // Two tokens can have the same text; a name may stand in an object only once.
      if (std::find(seen.begin(), seen.end(), other) != seen.end()) continue;
      tops_.member(other, shown(token.logprob));
      seen.push_back(std::move(other));
    }
    tops_.end_object();
  }
}

void CompletionLogprobs::write(JsonWriter& json) {
  for (JsonWriter* list : {&offsets_, &logprobs_, &tokens_, &tops_}) list->end_array();
  json.begin_object();
  json.key("text_offset").raw(offsets_.text()).key("token_logprobs").raw(logprobs_.text());
  json.key("tokens").raw(tokens_.text()).key("top_logprobs").raw(tops_.text());
  json.end_object();
}

void write_chat_logprobs(JsonWriter& json, const TokenNames& names,
                         std::span<const engine::PositionLogprobs> positions, int32_t top) {
  json.begin_object().key("content").begin_array();
  for (const engine::PositionLogprobs& position : positions) {
    json.begin_object();
    write_token(json, names, position.token);
    json.key("top_logprobs").begin_array();
    const size_t shown_tops = std::min(position.top.size(), static_cast<size_t>(top));
    for (size_t i = 0; i < shown_tops; ++i) {
      json.begin_object();
      write_token(json, names, position.top[i]);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().end_object();
}

void write_prompt_logprobs(JsonWriter& json, const TokenNames& names,
                           std::span<const engine::PositionLogprobs> positions) {
  const auto member = [&](const engine::TokenLogprob& token) {
    json.key(std::to_string(token.id)).begin_object();
    json.member("logprob", shown(token.logprob)).member("rank", int64_t{token.rank});
    json.member("decoded_token", names.text(token.id)).end_object();
  };
  json.begin_array().null();
  for (const engine::PositionLogprobs& position : positions) {
    json.begin_object();
    member(position.token);
    for (const engine::TokenLogprob& token : position.top) {
      if (token.id != position.token.id) member(token);
    }
    json.end_object();
  }
  json.end_array();
}

void write_usage(JsonWriter& json, const Usage& usage, bool with_nulls) {
  json.begin_object().member("prompt_tokens", usage.prompt_tokens);
  json.member("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.member("completion_tokens", usage.completion_tokens);
  if (usage.cached_tokens) {
    json.key("prompt_tokens_details").begin_object();
    json.member("cached_tokens", *usage.cached_tokens).end_object();
  } else if (with_nulls) {
    json.member_null("prompt_tokens_details");
  }
  if (with_nulls) json.member_null("completion_tokens_details");
  json.end_object();
}

void write_choice_end(JsonWriter& json, const ChoiceEnd& end, bool stop_reason) {
  json.key("finish_reason");
  if (end.finish_reason.empty()) {
    json.null();
  } else {
    json.string(end.finish_reason);
  }
  if (!stop_reason) return;
  json.key("stop_reason");
  if (!end.stop_string.empty()) {
    json.string(end.stop_string);
  } else if (end.stop_token) {
    json.integer(*end.stop_token);
  } else {
    json.null();
  }
}

void write_identity(JsonWriter& json, const ResponseIdentity& identity, std::string_view object) {
  json.member("id", identity.id).member("object", object);
  json.member("created", identity.created).member("model", identity.model);
}

void write_tail(JsonWriter& json, const Usage& usage) {
  json.member_null("service_tier").member("system_fingerprint", system_fingerprint());
  json.key("usage");
  write_usage(json, usage, true);
}

void write_tool_calls(JsonWriter& json, std::span<const ToolCall> calls, int64_t first) {
  json.begin_array();
  for (const ToolCall& call : calls) {
    json.begin_object();
    if (first >= 0) json.member("index", first++);
    json.member("id", call.id.empty() ? "chatcmpl-tool-" + random_hex() : call.id);
    json.member("type", "function");
    json.key("function").begin_object();
    json.member("name", call.name).member("arguments", call.arguments);
    json.end_object().end_object();
  }
  json.end_array();
}

std::string_view program_version() { return MOESAIC_VERSION; }

std::string system_fingerprint() { return fmt::format("moesaic-{}", program_version()); }

std::string sse_event(std::string_view json) { return fmt::format("data: {}\n\n", json); }

std::string random_hex() {
  static thread_local std::mt19937_64 generator(
      (static_cast<uint64_t>(std::random_device{}()) << 32) | std::random_device{}());
  return fmt::format("{:016x}", generator());
}

}  // namespace moesaic::server
