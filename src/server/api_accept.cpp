// From a parsed request to an accepted one: templates, token ids, and what depends on the prompt's
// length.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <chrono>

#include "base/error.h"
#include "server/api.h"
#include "server/fields.h"
#include "server/json_writer.h"
#include "server/request_fields.h"

namespace moesaic::server {

namespace json = boost::json;

namespace {

/// Memory that a byte of text can take while it is rendered and tokenised: the tokenizers crate
/// keeps each word apart, and the place of each of its bytes (measured: 100 for English, 320 where
/// each character is a word, such as digits).
constexpr size_t kTextWork = 336;
/// Of rendering alone: copies of the messages on their way through the template.
constexpr size_t kRenderWork = 16;

/// A request id becomes part of ids and logs; only these characters are taken over.
bool usable_id(const std::string& id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.' || c == ':';
  });
}

void truncate(const CommonRequest& request, int64_t max_model_len, std::vector<int32_t>& ids) {
  if (!request.truncate_prompt_tokens) return;
  int64_t keep = *request.truncate_prompt_tokens;
  if (keep < 0) keep = std::max<int64_t>(max_model_len - request.max_tokens.value_or(16), 1);
  if (static_cast<int64_t>(ids.size()) <= keep) return;
  if (request.truncate_right) {
    ids.resize(static_cast<size_t>(keep));
  } else {
    ids.erase(ids.begin(), ids.end() - keep);
  }
}

/// Bytes of all strings in a value.
size_t text_bytes(const json::value& value) {
  size_t bytes = 0;
  if (value.is_string()) bytes = value.get_string().size();
  if (value.is_array()) {
    for (const json::value& item : value.get_array()) bytes += text_bytes(item);
  }
  if (value.is_object()) {
    for (const auto& member : value.get_object()) bytes += text_bytes(member.value());
  }
  return bytes;
}

/// The text that the final message ends with; the messages have been normalised.
json::string& final_text(json::array& messages) {
  json::value& content = messages.back().as_object()["content"];
  if (content.is_string()) return content.get_string();
  json::array& parts = content.as_array();
  const auto text = std::find_if(parts.rbegin(), parts.rend(), [](const json::value& part) {
    return part.as_object().contains("text");
  });
  if (text == parts.rend()) {
    value_error("continue_final_message", "the final message has no text to go on from");
  }
  return text->as_object()["text"].as_string();
}

/// Bytes of `text` before the blanks at its end, which are what Python's str.strip() takes off.
size_t size_without_blanks(std::string_view text) {
  constexpr std::array<std::string_view, 29> kBlanks = {
      " ",      "\t",     "\n",     "\v",     "\f",     "\r",     "\x1C",   "\x1D",
      "\x1E",   "\x1F",   "\u0085", "\u00A0", "\u1680", "\u2000", "\u2001", "\u2002",
      "\u2003", "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200A",
      "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"};
  for (;;) {
    const auto blank = std::find_if(kBlanks.begin(), kBlanks.end(),
                                    [&](std::string_view one) { return text.ends_with(one); });
    if (blank == kBlanks.end()) return text.size();
    text.remove_suffix(blank->size());
  }
}

}  // namespace

const text::Tokenizer& Api::tokenizer(const char* param) const {
  if (!model_.tokenizer) {
    value_error(param, "this server runs without a tokenizer; send token ids to /v1/completions");
  }
  return *model_.tokenizer;
}

void Api::check_text_size(size_t bytes, const CommonRequest& request) const {
  if (most_text_bytes_ == 0 || static_cast<int64_t>(bytes) <= most_text_bytes_) return;
  if (request.truncate_prompt_tokens) return;
  value_error("input_tokens",
              fmt::format("{}, which is at most {} bytes of text; the prompt has {}",
                          context_length_is(limits_), most_text_bytes_, bytes));
}

GenerationRequest Api::accept_common(const CommonRequest& request, ByteShare held,
                                     bool chat) const {
  GenerationRequest accepted;
  accepted.held = std::move(held);
  accepted.chat = chat;
  accepted.identity.id = (chat ? "chatcmpl-" : "cmpl-") +
                         (usable_id(request.request_id) ? request.request_id : random_hex());
  accepted.identity.model = model_.names.front();
  accepted.identity.created = std::chrono::duration_cast<std::chrono::seconds>(
                                  std::chrono::system_clock::now().time_since_epoch())
                                  .count();
  accepted.sampling = request.sampling;
  engine::TokenRules rules = request.rules;
  rules.bad_words = bad_word_ids(request.bad_words);
  accepted.sampling.rules = engine::token_rules(std::move(rules));
  accepted.priority = request.priority;
  accepted.stop = request.stop;
  accepted.include_stop = request.include_stop;
  accepted.skip_special = request.skip_special;
  accepted.stream = request.stream;
  accepted.include_usage = request.include_usage;
  accepted.continuous_usage = request.continuous_usage;
  accepted.echo = request.echo;
  accepted.return_token_ids = request.return_token_ids;
  accepted.tokens_as_ids = request.tokens_as_ids;
  accepted.prompt_details = prompt_details_;
  if (!request.stop.empty() && !model_.tokenizer) tokenizer("stop");
  return accepted;
}

void Api::constrain(const ConstraintText& text, GenerationRequest& accepted) const {
  // Where the model thinks first, what it thinks is its own.
  text::Grammars::Thought thought;
  if (accepted.reasoning == Reasoning::kOpened) {
    thought.close = accepted.reasoning_form->close;
  } else if (accepted.reasoning == Reasoning::kMayCome) {
    thought = {accepted.reasoning_form->open, accepted.reasoning_form->close};
  }
  auto found = constraints_->get(text, thought);
  accepted.sampling.constraint = std::move(found.constraint);
  accepted.held.grow(found.bytes);
}

/// The shape a banned word can have in the text: at its beginning, or after a space.
std::vector<std::vector<int32_t>> Api::bad_word_ids(const std::vector<std::string>& words) const {
  std::vector<std::vector<int32_t>> out;
  for (const std::string& word : words) {
    const size_t start = word.find_first_not_of(' ');
    if (start == std::string::npos) value_error("bad_words", "a bad word is only spaces");
    const std::string bare = word.substr(start);
    const text::Tokenizer& codec = tokenizer("bad_words");
    auto plain = codec.encode(bare, false, text::Tokenizer::Specials::kAsText);
    auto spaced = codec.encode(" " + bare, false, text::Tokenizer::Specials::kAsText);
    // Text can have tokens that the model does not know: the tokenizer may be the larger one.
    for (const auto* ids : {&plain, &spaced}) {
      check_token_ids(*ids, "bad_words", limits_.vocab_size);
    }
    const bool other =
        !spaced.empty() && !plain.empty() && spaced[0] != plain[0] && spaced.size() == plain.size();
    if (!plain.empty()) out.push_back(std::move(plain));
    if (other) out.push_back(std::move(spaced));
  }
  return out;
}

void Api::finish_prompt(const CommonRequest& request, GenerationRequest& accepted,
                        GenerationRequest::Prompt prompt, const char* field) const {
  truncate(request, limits_.max_model_len, prompt.ids);
  if (prompt.ids.empty()) value_error(field, fmt::format("{} has no tokens", field));
  check_token_ids(prompt.ids, field, limits_.vocab_size);
  const auto size = static_cast<int64_t>(prompt.ids.size());
  check_prompt_size(size, limits_);
  const int64_t room = limits_.max_model_len - size;
  accepted.echo_only = request.echo && request.max_tokens == 0;
  // More than the context alone has been refused; what the prompt leaves of it is given, as in
  // vLLM.
  int64_t most = std::min(room, request.max_tokens.value_or(accepted.chat ? room : 16));
  if (defaults_.max_new_tokens && *defaults_.max_new_tokens > 0) {
    most = std::min(most, *defaults_.max_new_tokens);
  }
  prompt.max_tokens = static_cast<int32_t>(std::max<int64_t>(most, 1));
  if (accepted.sampling.min_tokens > prompt.max_tokens) {
    value_error("min_tokens", fmt::format("min_tokens is {}, more than the {} tokens at most",
                                          accepted.sampling.min_tokens, prompt.max_tokens));
  }
  // The ids are here, with the engine, and once more there when they are made distinct.
  accepted.held.grow(prompt.ids.size() * 3 * sizeof(int32_t) + prompt.text.size());
  accepted.prompts.push_back(std::move(prompt));
}

std::string Api::decode(const std::vector<int32_t>& ids, bool skip_special,
                        const ByteShare& held) const {
  const ByteShare work = held.another(ids.size() * (sizeof(int32_t) + 2 * longest_token_));
  return model_.tokenizer->decode(ids, skip_special);
}

GenerationRequest Api::accept_completion(CompletionRequest& request, ByteShare held,
                                         const std::atomic<bool>* cancel) const {
  GenerationRequest accepted = accept_common(request, std::move(held), false);
  if (request.constraint) constrain(*request.constraint, accepted);
  if (request.echo && request.sampling.logprobs >= 0) {
    accepted.sampling.prompt_logprobs =
        std::max(accepted.sampling.prompt_logprobs, accepted.sampling.logprobs);
  }
  for (CompletionRequest::Prompt& source : request.prompts) {
    GenerationRequest::Prompt prompt;
    if (auto* text = std::get_if<std::string>(&source)) {
      check_text_size(text->size(), request);
      const ByteShare work = accepted.held.another(text->size() * kTextWork);
      prompt.ids = tokenizer("prompt").encode(*text, request.add_special_tokens,
                                              text::Tokenizer::Specials::kParse, cancel);
      prompt.text = std::move(*text);
    } else {
      prompt.ids = std::move(std::get<std::vector<int32_t>>(source));
      if (request.echo && model_.tokenizer) {
        prompt.text = decode(prompt.ids, request.skip_special, accepted.held);
      }
    }
    finish_prompt(request, accepted, std::move(prompt), "prompt");
  }
  return accepted;
}

std::string Api::render(const ChatInput& chat) const {
  tokenizer("messages");
  if (!model_.chat_template) {
    value_error("messages",
                "this model has no chat template; give one with --chat-template, or use "
                "/v1/completions");
  }
  json::object context = default_template_kwargs_;
  for (const auto& [key, value] : chat.template_kwargs) context[key] = value;
  context["messages"] = chat.messages;
  // Templates ask `tools is not none`, so absence is null and not undefined.
  context["tools"] = chat.tools;
  context["documents"] = chat.documents;
  context["add_generation_prompt"] = chat.add_generation_prompt;
  if (chat.continue_final_message) return render_open(context);
  return model_.chat_template->render(json::serialize(context));
}

/// The conversation up to the end of its final message's text: the template would go on and close
/// the message.
std::string Api::render_open(json::object& context) const {
  const std::string mark = fmt::format("[[moesaic-continue-{}]]", random_hex());
  json::string& text = final_text(context["messages"].as_array());
  const std::string all(text.data(), text.size());
  const size_t size = size_without_blanks(all);
  // What the template writes before the mark and after it.
  const auto around = [&](std::string_view blanks) {
    text = all.substr(0, size) + mark;
    text.append(blanks);
    const std::string rendered = model_.chat_template->render(json::serialize(context));
    const size_t at = rendered.rfind(mark);
    if (at == std::string::npos) {
      value_error("continue_final_message", "the chat template does not show the final message");
    }
    return std::pair(rendered.substr(0, at), rendered.substr(at + mark.size()));
  };
  auto [start, closing] = around("");
  if (size == all.size()) return start;
  // Of the blanks at its end the message has those that the template leaves.
  const std::string kept = around(std::string_view(all).substr(size)).second;
  if (kept.ends_with(closing)) start += kept.substr(0, kept.size() - closing.size());
  return start;
}

GenerationRequest Api::accept_chat(ChatRequest& request, size_t body_bytes, ByteShare held) const {
  GenerationRequest accepted = accept_common(request, std::move(held), true);
  check_prompt_bytes(text_bytes(request.chat.messages), "messages", limits_);
  ByteShare work = accepted.held.another(body_bytes * kRenderWork);
  const std::string rendered = render(request.chat);
  check_text_size(rendered.size(), request);
  work.resize(rendered.size() * kTextWork);
  GenerationRequest::Prompt prompt;
  prompt.ids = model_.tokenizer->encode_chat(rendered, request.add_special_tokens);
  prompt.text = text::ChatTemplate::without_guards(rendered);
  accepted.role = request.chat.add_generation_prompt ? response_role_ : request.chat.last_role;
  accepted.echo_text = request.echo && request.chat.last_role == accepted.role
                           ? request.chat.last_content
                           : std::string();
  accepted.return_prompt_text = request.return_prompt_text;
  choose_forms(request, prompt.text, accepted);
  if (request.constraint) constrain(*request.constraint, accepted);
  finish_prompt(request, accepted, std::move(prompt), "messages");
  return accepted;
}

/// What is looked for in the text of the answer.
void Api::choose_forms(const ChatRequest& request, std::string_view prompt,
                       GenerationRequest& accepted) const {
  accepted.parse_tool_calls = request.parse_tool_calls;
  accepted.parallel_tool_calls = request.parallel_tool_calls;
  accepted.named_call = request.named_call;
  if (!request.held_to_calls) accepted.call_form = call_form_;
  if (request.parse_tool_calls) {
    accepted.text_parameters =
        std::make_shared<const TextParameters>(text_parameters(request.chat.tools.get_array()));
  }
  accepted.include_reasoning = request.include_reasoning;
  accepted.reasoning_form = reasoning_form_;
  if (reasoning_form_ != nullptr) accepted.reasoning = reasoning_after(*reasoning_form_, prompt);
  // The marks may be special tokens; without them there would be nothing to find.
  const auto special = [&](std::string_view mark) {
    const auto id = model_.tokenizer->token_to_id(mark);
    return id && model_.tokenizer->is_special(*id);
  };
  if (accepted.parse_tool_calls ||
      (reasoning_form_ != nullptr && special(reasoning_form_->close))) {
    accepted.skip_special = false;
  }
}

Response Api::tokenize_now(const json::object& body, ByteShare& held) const {
  const Body kind = Fields(body).has("messages") ? kTokenizeChat : kTokenizeText;
  check_fields(body, kind, limits_);
  const Fields fields(body, kind);
  ByteShare work = held.another();
  if (const auto model = fields.name("model")) check_model(*model);
  const bool strings = fields.boolean("return_token_strs").value_or(false);
  std::vector<int32_t> ids;
  if (kind == kTokenizeChat) {
    const ChatInput chat = parse_chat_input(body, content_);
    work.resize(held.bytes() * kRenderWork);
    const std::string rendered = render(chat);
    work.resize(rendered.size() * kTextWork);
    ids = model_.tokenizer->encode_chat(rendered,
                                        fields.boolean("add_special_tokens").value_or(false));
  } else {
    const auto prompt = fields.string("prompt");
    check_prompt_bytes(static_cast<int64_t>(prompt->size()), "prompt", limits_);
    work.resize(prompt->size() * kTextWork);
    ids = tokenizer("prompt").encode(*prompt, fields.boolean("add_special_tokens").value_or(true),
                                     text::Tokenizer::Specials::kParse);
  }
  work.resize(ids.size() * sizeof(int32_t));
  JsonWriter json(&held);
  json.begin_object().member("count", static_cast<int64_t>(ids.size()));
  json.member("max_model_len", model_.max_model_len).key("tokens").integers(ids);
  json.key("token_strs");
  if (strings) {
    json.begin_array();
    for (const int32_t id : ids) json.string(model_.tokenizer->token_text(id));
    json.end_array();
  } else {
    json.null();
  }
  json.end_object();
  Response response = json_response(200, json.take());
  response.held = std::move(held);
  return response;
}

Response Api::detokenize_now(const json::object& body, ByteShare& held) const {
  check_fields(body, kDetokenize, limits_);
  const Fields fields(body, kDetokenize);
  if (const auto model = fields.name("model")) check_model(*model);
  // Not only what the model knows: /tokenize gives what the tokenizer knows, and this undoes it.
  const int64_t known =
      std::max(limits_.vocab_size, model_.tokenizer ? model_.tokenizer->vocab_size() : 0);
  const auto ids = fields.token_ids("tokens", known);
  tokenizer("tokens");
  const std::string text = decode(*ids, false, held);
  const ByteShare work = held.another(text.size());
  JsonWriter json(&held);
  json.begin_object().member("prompt", text).end_object();
  Response response = json_response(200, json.take());
  response.held = std::move(held);
  response.held.resize(response.body.size());
  return response;
}

}  // namespace moesaic::server
