#include "server/openapi.h"

#include <fmt/format.h>

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "server/openai_response.h"
#include "server/route_table.h"
#include "server/routes.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;

constexpr std::array<std::pair<Body, const char*>, 5> kSchemas = {
    {{kCompletion, "CompletionRequest"},
     {kChat, "ChatCompletionRequest"},
     {kTokenizeText, "TokenizeCompletionRequest"},
     {kTokenizeChat, "TokenizeChatRequest"},
     {kDetokenize, "DetokenizeRequest"}}};

json::object reference(const std::string& name) {
  return {{"$ref", "#/components/schemas/" + name}};
}

/// {"application/json": {"schema": ...}}
json::object content(std::string_view type, json::object schema) {
  return {{type, json::object{{"schema", std::move(schema)}}}};
}

json::object error_answer(const char* what) {
  return {{"description", what}, {"content", content("application/json", reference("Error"))}};
}

json::object good_answer(const Route& route) {
  json::object answer{{"description", route.summary}};
  if (!route.answer.empty()) answer["content"] = content(route.answer, {});
  if (route.generates()) {
    answer["content"].as_object()["text/event-stream"] =
        json::object{{"schema", json::object{{"type", "string"}, {"description", "With stream."}}}};
  }
  return answer;
}

json::object body_of(const Route& route) {
  json::array schemas;
  for (const auto& [body, name] : kSchemas) {
    if ((route.bodies & body) != 0) schemas.emplace_back(reference(name));
  }
  json::object schema = schemas.size() == 1 ? std::move(schemas[0].as_object())
                                            : json::object{{"anyOf", std::move(schemas)}};
  return {{"required", true}, {"content", content("application/json", std::move(schema))}};
}

/// "post_v1_chat_completions", unique as the standard asks.
std::string operation_id(const Route& route) {
  std::string id;
  for (const char c : fmt::format("{}{}", route.method, route.path)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (c >= 'A' && c <= 'Z') {
      id += static_cast<char>(c - 'A' + 'a');
    } else if (letter) {
      id += c;
    } else if (!id.ends_with('_') && c != '}') {
      id += '_';
    }
  }
  return id;
}

json::object operation(const Route& route, bool keys) {
  json::object out{{"operationId", operation_id(route)}, {"summary", route.summary}};
  json::object answers{{"200", good_answer(route)}};
  if (route.endpoint == Endpoint::kModel) {
    out["parameters"] = json::array{json::object{{"name", "model"},
                                                 {"in", "path"},
                                                 {"required", true},
                                                 {"schema", json::object{{"type", "string"}}}}};
    answers["404"] = error_answer("There is no such model.");
  }
  if (route.has_body()) {
    out["requestBody"] = body_of(route);
    answers["400"] = error_answer("The request is wrong; param names the member at fault.");
    answers["404"] = error_answer("There is no such model.");
    answers["503"] = error_answer("It cannot be served now; Retry-After says when to try again.");
  } else if (route.endpoint == Endpoint::kHealth) {
    answers["503"] = error_answer("It can take no work.");
  }
  if (keys && needs_key(route.method, route.path)) {
    answers["401"] = json::object{{"description", "The key is missing or wrong."}};
    out["security"] = json::array{json::object{{"key", json::array()}}};
  }
  out["responses"] = std::move(answers);
  return out;
}

json::object error_schema() {
  const auto type = [](const json::value& name) { return json::object{{"type", name}}; };
  const json::object error{{"type", "object"},
                           {"required", {"message", "type", "param", "code"}},
                           {"properties", json::object{{"message", type("string")},
                                                       {"type", type("string")},
                                                       {"param", type({"string", "null"})},
                                                       {"code", type("integer")}}}};
  return {{"type", "object"},
          {"required", json::array{"error"}},
          {"properties", json::object{{"error", error}}}};
}

}  // namespace

std::string openapi_document(const RequestLimits& limits, bool tokenizer_info, bool keys) {
  json::object paths;
  for (const Route& route : routes()) {
    if (route.endpoint == Endpoint::kNotYet || route.endpoint == Endpoint::kPageFile) continue;
    if (route.endpoint == Endpoint::kTokenizerInfo && !tokenizer_info) continue;
    if (!paths.contains(route.path)) paths[route.path] = json::object();
    const char* method = route.method == "GET" ? "get" : "post";
    paths[route.path].as_object()[method] = operation(route, keys);
  }
  json::object schemas;
  for (const auto& [body, name] : kSchemas) schemas[name] = body_schema(body, limits);
  schemas["Error"] = error_schema();
  json::object components{{"schemas", std::move(schemas)}};
  if (keys) {
    components["securitySchemes"] =
        json::object{{"key", json::object{{"type", "http"}, {"scheme", "bearer"}}}};
  }
  return json::serialize(
      json::object{{"openapi", "3.1.0"},
                   {"info", json::object{{"title", "moesaic"}, {"version", program_version()}}},
                   {"paths", std::move(paths)},
                   {"components", std::move(components)}});
}

}  // namespace moesaic::server
