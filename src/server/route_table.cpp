#include "server/route_table.h"

#include <array>

namespace moesaic::server {
namespace {

using enum Endpoint;

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kHtml = "text/html";

// clang-format off
constexpr auto kRoutes = std::to_array<Route>({
    {"POST", "/v1/completions", kCompletions, "Go on with a text", kJson, kCompletion},
    {"POST", "/v1/chat/completions", kChatCompletions, "Answer a conversation", kJson, kChat},
    {"POST", "/tokenize", kTokenize, "Text or messages to token ids", kJson, kTokenizeText | kTokenizeChat},
    {"POST", "/detokenize", Endpoint::kDetokenize, "Token ids to text", kJson, Body::kDetokenize},
    {"GET", "/v1/models", kModels, "The names of the model that is served", kJson},
    {"GET", "/v1/models/{model}", kModel, "One of these names", kJson},
    {"GET", "/tokenizer_info", kTokenizerInfo, "The tokenizer's configuration", kJson},
    {"GET", "/health", kHealth, "200, or 503 when it can take no work", {}, kNoBody, false},
    {"GET", "/ping", kHealth, "The same", {}, kNoBody, false},
    {"POST", "/ping", kHealth, "The same", {}, kNoBody, false},
    {"GET", "/version", kVersion, "The program's version", kJson, kNoBody, false},
    {"GET", "/load", kLoad, "Requests in flight", kJson, kNoBody, false},
    {"GET", "/metrics", kMetrics, "Metrics in Prometheus' text format", "text/plain", kNoBody, false},
    {"GET", "/moesaic/experts", kExperts, "Tokens per layer and expert", kJson, kNoBody, false},
    {"GET", "/", kPage, "The web page", kHtml},
    {"GET", "/docs", kDocs, "This description as a page", kHtml},
    {"GET", "/openapi.json", kOpenApi, "This description", kJson},
    {"GET", "/favicon.ico", kIcon, "The page's icon", "image/svg+xml"},
    {"GET", "/web/{file}", kPageFile, "What the web page is made of"},
    {"POST", "/v1/responses", kNotYet},
    {"POST", "/v1/messages", kNotYet},
    {"POST", "/v1/messages/count_tokens", kNotYet},
    {"POST", "/v1/embeddings", kNotYet},
    {"POST", "/v1/score", kNotYet},
    {"POST", "/score", kNotYet},
    {"POST", "/v1/rerank", kNotYet},
    {"POST", "/v2/rerank", kNotYet},
    {"POST", "/rerank", kNotYet},
    {"POST", "/v2/embed", kNotYet},
    {"POST", "/classify", kNotYet},
    {"POST", "/pooling", kNotYet},
    {"POST", "/invocations", kNotYet},
    {"POST", "/v1/audio/transcriptions", kNotYet},
    {"POST", "/v1/audio/translations", kNotYet},
    {"POST", "/v1/chat/completions/batch", kNotYet},
    {"POST", "/inference/v1/generate", kNotYet},
    {"POST", "/v1/load_lora_adapter", kNotYet},
    {"POST", "/v1/unload_lora_adapter", kNotYet},
    // Of TGI.
    {"POST", "/", kNotYet},
    {"POST", "/generate", kNotYet},
    {"POST", "/generate_stream", kNotYet},
    {"POST", "/chat_tokenize", kNotYet},
    {"POST", "/vertex", kNotYet},
    {"GET", "/info", kNotYet},
});
// clang-format on

constexpr char kParameter = '{';

bool matches(const Route& route, std::string_view path) {
  const size_t parameter = route.path.find(kParameter);
  if (parameter != std::string_view::npos) {
    return path.size() > parameter && path.starts_with(route.path.substr(0, parameter));
  }
  // FastAPI would redirect; a client that posts does not always follow.
  if (path.size() > route.path.size() && route.path != "/" && path.ends_with('/')) {
    path.remove_suffix(1);
  }
  return path == route.path;
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

const Route* find_route(std::string_view method, std::string_view path) {
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const Route& route : kRoutes) {
    if (route.method == wanted && matches(route, path)) return &route;
  }
  return nullptr;
}

std::string_view path_parameter(const Route& route, std::string_view path) {
  return path.substr(route.path.find(kParameter));
}

std::string allowed_methods(std::string_view path) {
  std::string out;
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) continue;
    if (!out.empty()) out += ", ";
    out += route.method;
    if (route.method == "GET") out += ", HEAD";
  }
  return out;
}

}  // namespace moesaic::server
