// The routes beside those that generate, and the description that the server gives of itself.

#include <boost/json/array.hpp>

#include "server/fields.h"
#include "server/request_fields.h"
#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

TEST(Endpoints, ASlashAtTheEndIsNoOtherPath) {
  Rig rig;
  const std::string body = R"({"prompt":"a","max_tokens":1})";
  for (const char* path : {"/v1/models/", "/health/", "/metrics/", "/version/", "/docs/"}) {
    EXPECT_EQ(ask(rig, get(path)).status, 200) << path;
  }
  for (const char* path : {"/v1/completions/", "/tokenize/"}) {
    EXPECT_EQ(ask(rig, post(path, body)).status, 200) << path;
  }
  EXPECT_EQ(ask(rig, get("/v1/completions/")).header("allow"), "POST");
  for (const char* path : {"/health//", "//", "/v1//models", "/v1/completions/x"}) {
    EXPECT_EQ(ask(rig, get(path)).status, 404) << path;
  }
  Rig guarded(TestSettings{{"api-key", "secret"}});
  EXPECT_EQ(ask(guarded, post("/v1/completions/", body)).status, 401);
}

TEST(Endpoints, AModelIsFoundByEachOfItsNames) {
  Rig rig;
  const json::value list = ask(rig, get("/v1/models")).value().at("data");
  const std::pair<const char*, size_t> names[] = {
      {"toy", 0}, {"toy-too", 1}, {"%74oy", 0}, {"org/toy", 2}, {"org%2Ftoy", 2}, {"org%2ftoy", 2}};
  for (const auto& [name, index] : names) {
    const Answer answer = ask(rig, get(std::string("/v1/models/") + name));
    ASSERT_EQ(answer.status, 200) << name;
    for (const char* member : {"id", "object", "created", "owned_by", "root", "max_model_len"}) {
      EXPECT_EQ(answer.value().at(member), list.at(index).at(member)) << name << " " << member;
    }
  }
  for (const char* name : {"nobody", "toy%2", "toy%zz", "to", "toy/x", "/toy", "%00"}) {
    const Answer answer = ask(rig, get(std::string("/v1/models/") + name));
    EXPECT_EQ(answer.status, 404) << name;
    EXPECT_EQ(answer.value().at("error").at("param"), "model") << name;
  }
  EXPECT_EQ(ask(rig, "DELETE /v1/models/toy HTTP/1.1\r\nHost: t\r\n\r\n").status, 405);
  Rig guarded(TestSettings{{"api-key", "secret"}});
  EXPECT_EQ(ask(guarded, get("/v1/models/toy")).status, 401);
}

TEST(Endpoints, TheTokenizerIsShownOnlyWhenASettingSaysSo) {
  Rig rig;
  EXPECT_EQ(ask(rig, get("/tokenizer_info")).body, R"({"detail":"Not Found"})");
  EXPECT_EQ(ask(rig, get("/openapi.json")).body.find("tokenizer_info"), std::string::npos);
  const TestSettings on{{"enable-tokenizer-info-endpoint", "true"}};
  Rig open(on);
  EXPECT_EQ(ask(open, get("/tokenizer_info")).body, R"({"tokenizer_class":"Bytes"})");
  EXPECT_TRUE(
      ask(open, get("/openapi.json")).value().at("paths").as_object().contains("/tokenizer_info"));
  EXPECT_EQ(ask(Rig(on, false), get("/tokenizer_info")).status, 404);
}

TEST(Endpoints, TheServerDescribesItselfUnlessToldNotTo) {
  Rig rig;
  const Answer page = ask(rig, get("/docs"));
  EXPECT_EQ(page.header("Content-Type"), "text/html; charset=utf-8");
  EXPECT_NE(page.header("content-security-policy").find("default-src 'none'"), std::string::npos);
  for (const char* outside : {"src=\"http", "//", "@import"}) {
    EXPECT_EQ(page.body.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(ask(rig, get("/favicon.ico")).header("Content-Type"), "image/svg+xml");
  EXPECT_TRUE(ask(rig, get("/favicon.ico")).body.starts_with("<svg"));
  Rig silent(TestSettings{{"disable-fastapi-docs", "true"}});
  for (const char* path : {"/docs", "/docs/", "/openapi.json"}) {
    EXPECT_EQ(ask(silent, get(path)).status, 404) << path;
    EXPECT_EQ(ask(silent, "HEAD " + std::string(path) + " HTTP/1.1\r\nHost: t\r\n\r\n").status,
              404);
  }
}

TEST(Endpoints, PathsOfOtherServersAreNamed) {
  Rig rig;
  for (const char* path : {"/", "/generate", "/generate_stream", "/vertex", "/v1/responses"}) {
    const Answer answer = ask(rig, post(path, "{}"));
    EXPECT_EQ(answer.status, 404) << path;
    const json::value error = answer.value().at("error");
    EXPECT_EQ(error.at("type"), "NotFoundError") << path;
    EXPECT_EQ(text_of(error.at("message")), "POST " + std::string(path) + " is not supported yet");
  }
  EXPECT_EQ(ask(rig, get("/info")).value().at("error").at("type"), "NotFoundError");
  EXPECT_EQ(ask(rig, get("/")).status, 200);
  Rig guarded(TestSettings{{"api-key", "secret"}});
  EXPECT_EQ(ask(guarded, post("/", "{}")).status, 401);
  EXPECT_EQ(ask(guarded, get("/")).status, 200);
}

TEST(Endpoints, WhatTheDescriptionListsIsThere) {
  for (const TestSettings& settings :
       {TestSettings{}, TestSettings{{"api-key", "secret"}, {"max-n", "7"}}}) {
    Rig rig(settings);
    const std::string key = settings.empty() ? "" : "Authorization: Bearer secret\r\n";
    const json::value api = ask(rig, get("/openapi.json")).value();
    EXPECT_EQ(api.at("openapi"), "3.1.0");
    std::vector<std::string> ids;
    for (const auto& [path, methods] : api.at("paths").as_object()) {
      std::string at = path;
      if (const size_t name = at.find("{model}"); name != at.npos) at.replace(name, 7, "toy");
      for (const auto& [method, operation] : methods.as_object()) {
        ids.push_back(text_of(operation.at("operationId")));
        const bool guarded = operation.as_object().contains("security");
        const std::string bytes = method == "get" ? get(at) : post(at, "{}");
        EXPECT_EQ(ask(rig, bytes).status == 401, guarded) << path;
        const Answer answer = ask(rig, method == "get" ? get(at, key) : post(at, "{}", key));
        const json::object& answers = operation.at("responses").as_object();
        EXPECT_TRUE(answers.contains(std::to_string(answer.status))) << path << answer.status;
        if (answer.status != 200) continue;
        const json::value* content = answers.at("200").as_object().if_contains("content");
        EXPECT_EQ(content == nullptr, answer.body.empty()) << path;
        if (content == nullptr) continue;
        EXPECT_TRUE(answer.header("Content-Type")
                        .starts_with(std::string(content->as_object().begin()->key())))
            << path;
      }
    }
    EXPECT_GE(ids.size(), 15U);
    std::sort(ids.begin(), ids.end());
    EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
    const json::value& n = api.at("components").at("schemas").at("CompletionRequest");
    EXPECT_EQ(n.at("properties").at("n").at("maximum"), settings.empty() ? 128 : 7);
  }
}

/// Whether the server would take a body of this kind.
bool takes(Body kind, const json::object& body, const RequestLimits& limits) {
  try {
    if (kind == kCompletion) {
      parse_completion(body, limits, {});
    } else if (kind == kChat) {
      parse_chat(body, limits, {}, {});
    } else {
      check_fields(body, kind, limits);
    }
    return true;
  } catch (const base::RequestError& error) {
    EXPECT_EQ(error.status(), 400);
    return false;
  }
}

/// A body of this kind with all that one of its members may need beside it.
json::object sound(Body kind, std::string_view member) {
  json::object body;
  if (kind == kCompletion || kind == kTokenizeText) body["prompt"] = "a";
  if (kind == kDetokenize) body["tokens"] = json::array{1};
  if (kind == kChat || kind == kTokenizeChat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", "a"}}};
  }
  if (member == "top_logprobs") body["logprobs"] = true;
  if (member == "stream_options") body["stream"] = true;
  if (member == "max_tokens" && kind == kCompletion) body["echo"] = true;
  if (member == "tool_choice") {
    body["tools"] =
        json::array{json::object{{"type", "function"}, {"function", json::object{{"name", "f"}}}}};
  }
  return body;
}

/// Values that a schema draws a line between, with the side that each is on.
std::vector<std::pair<json::value, bool>> values_of(const json::object& schema) {
  std::vector<std::pair<json::value, bool>> out;
  if (const json::value* choices = schema.if_contains("enum")) {
    for (const json::value& choice : choices->as_array()) out.emplace_back(choice, true);
    out.emplace_back("anything else", false);
    out.emplace_back(7, false);
    return out;
  }
  const json::value* type = schema.if_contains("type");
  if (type == nullptr) return out;
  const std::string types = json::serialize(*type);
  const auto has = [&](const char* name) { return types.find(name) != std::string::npos; };
  out.emplace_back(nullptr, has("null"));
  const bool number = has("integer") || has("number");
  if (!number) out.emplace_back(7, false);
  if (!has("boolean")) out.emplace_back(true, false);
  if (!has("string")) out.emplace_back("7", false);
  if (!has("object")) out.emplace_back(json::object(), false);
  if (!has("array")) out.emplace_back(json::array(), false);
  if (has("integer")) out.emplace_back(1.5, false);
  if (has("boolean")) out.emplace_back(false, true);
  if (number) {
    using Side = std::pair<const char*, double>;
    for (const auto& [bound, outward] : {Side("minimum", -1.0), Side("maximum", 1.0)}) {
      const json::value* at = schema.if_contains(bound);
      if (at == nullptr) continue;
      const double step = has("integer") ? outward : outward * 1e-6;
      out.emplace_back(*at, true);
      out.emplace_back(at->to_number<double>() + step, false);
    }
    if (const json::value* at = schema.if_contains("exclusiveMinimum")) {
      out.emplace_back(*at, false);
      out.emplace_back(at->to_number<double>() + 1e-6, true);
    }
  }
  const json::value* items = schema.if_contains("items");
  const json::value* most = schema.if_contains("maxItems");
  if (items != nullptr && most != nullptr) {
    const json::value one = items->as_object().contains("minimum") ? json::value(1) : "a";
    const auto size = most->to_number<size_t>();
    out.emplace_back(json::array(size, one), true);
    out.emplace_back(json::array(size + 1, one), false);
    if (schema.contains("minItems")) out.emplace_back(json::array(), false);
    if (items->as_object().contains("maximum")) {
      const auto last = items->at("maximum").to_number<int64_t>();
      out.emplace_back(json::array(1, last), true);
      out.emplace_back(json::array(1, last + 1), false);
    }
  }
  return out;
}

TEST(Endpoints, TheSchemasDrawTheLinesThatTheServerDraws) {
  RequestLimits limits = request_limits(base::Settings(), kVocab, 4096);
  limits.priority_scheduling = true;
  int lines = 0;
  for (const Body kind : {kCompletion, kChat, kTokenizeText, kTokenizeChat, kDetokenize}) {
    const json::object schema = body_schema(kind, limits);
    ASSERT_TRUE(takes(kind, sound(kind, ""), limits));
    for (const auto& [key, member] : schema.at("properties").as_object()) {
      const std::string name = key;
      std::vector<std::pair<json::value, bool>> values;
      if (const json::value* either = member.as_object().if_contains("anyOf")) {
        for (const json::value& one : either->as_array()) {
          for (auto& [value, good] : values_of(one.as_object())) {
            if (good) values.emplace_back(value, good);
          }
        }
        values.emplace_back(7, false);
      } else {
        values = values_of(member.as_object());
      }
      for (const auto& [value, good] : values) {
        json::object body = sound(kind, name);
        body[name] = value;
        EXPECT_EQ(takes(kind, body, limits), good)
            << name << ": " << json::serialize(value).substr(0, 80);
        ++lines;
      }
      if (const json::value* inner = member.as_object().if_contains("properties")) {
        for (const auto& [inside, of] : inner->as_object()) {
          for (const auto& [value, good] : values_of(of.as_object())) {
            json::object body = sound(kind, name);
            body[name] = json::object{{inside, value}};
            EXPECT_EQ(takes(kind, body, limits), good) << name << "." << std::string(inside);
            ++lines;
          }
        }
      }
    }
    for (const json::value& required : schema.at("required").as_array()) {
      json::object body = sound(kind, "");
      body.erase(required.as_string());
      EXPECT_FALSE(takes(kind, body, limits)) << required;
    }
  }
  EXPECT_GT(lines, 500);
}

TEST(Endpoints, OnlyMembersOfTheTableCanBeRead) {
  const json::object body{{"prompt", "a"}};
  EXPECT_TRUE(Fields(body, kCompletion).has("prompt"));
  EXPECT_DEATH(Fields(body, kChat).has("prompt"), "find_field");
  EXPECT_DEATH(Fields(body, kCompletion).has("no_such_member"), "find_field");
}

}  // namespace
}  // namespace moesaic::server::testing
