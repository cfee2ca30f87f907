#include "server/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>

#include "server/openai_response.h"
#include "server/openapi.h"
#include "server/web_files.h"

namespace moesaic::server {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Time depends on the key's length only, never on what was given.
bool same_secret(std::string_view key, std::string_view given) {
  size_t difference = key.size() ^ given.size();
  for (size_t i = 0; i < key.size(); ++i) {
    const char other = i < given.size() ? given[i] : '\0';
    difference |= static_cast<unsigned char>(key[i] ^ other);
  }
  return difference == 0;
}

bool is_json(const RequestHead& head) {
  const std::string* type = head.find("content-type");
  if (type == nullptr) return false;
  const std::string media = lower(trimmed(std::string_view(*type).substr(0, type->find(';'))));
  return media == "application/json" ||
         (media.starts_with("application/") && media.ends_with("+json"));
}

/// A JSON list of strings; anything else is one string, as TGI's environment names have it.
std::vector<std::string> list_of(const std::string& text) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(text, error);
  if (error || !value.is_array()) return {text};
  std::vector<std::string> out;
  for (const auto& item : value.get_array()) {
    if (item.is_string()) out.emplace_back(item.get_string().data(), item.get_string().size());
  }
  return out;
}

bool has_star(const std::vector<std::string>& list) {
  return std::find(list.begin(), list.end(), "*") != list.end();
}

Response detail(int status) {
  return json_response(status, fmt::format(R"({{"detail":"{}"}})", reason_phrase(status)));
}

/// Known methods keep the metric's label from growing with what clients invent.
std::string method_label(const std::string& method) {
  for (const char* known : {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "other";
}

/// Scripts and styles come from this server's files alone, and no string becomes markup or code:
/// what a model says cannot turn into either, even where the page had a fault.
Response page_file(std::string_view path) {
  const auto files = web_files();
  const auto file = std::find_if(files.begin(), files.end(),
                                 [&](const WebFile& candidate) { return candidate.path == path; });
  if (file == files.end()) return detail(404);
  Response response;
  response.content_type = file->content_type;
  response.headers.push_back({"cache-control", "no-cache"});  // files of two versions do not mix
  response.headers.push_back(
      {"content-security-policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
       "'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
       "require-trusted-types-for 'script'; trusted-types 'none'"});
  response.body = file->body;
  return response;
}

}  // namespace

bool needs_key(std::string_view method, std::string_view path) {
  return path.starts_with("/v1") || path.starts_with("/v2") || path.starts_with("/inference") ||
         path.starts_with("/generate") || (method == "POST" && path == "/");
}

Router::Router(const base::Settings& settings, Api& api, std::shared_ptr<base::Metrics> metrics)
    : api_(api),
      metrics_(std::move(metrics)),
      keys_(settings.get_list("api-key")),
      root_path_(settings.get_string("root-path")),
      origins_(list_of(settings.get_string("allowed-origins"))),
      allowed_headers_(list_of(settings.get_string("allowed-headers"))),
      credentials_(settings.get_bool("allow-credentials")),
      echo_request_id_(settings.get_bool("enable-request-id-headers")),
      docs_(!settings.get_bool("disable-fastapi-docs")),
      tokenizer_info_(settings.get_bool("enable-tokenizer-info-endpoint")) {
  const auto methods = list_of(settings.get_string("allowed-methods"));
  methods_ = has_star(methods) ? "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
                               : fmt::format("{}", fmt::join(methods, ", "));
  while (root_path_.ends_with('/')) root_path_.pop_back();
  if (docs_) openapi_ = openapi_document(api.limits(), tokenizer_info_, !keys_.empty());
}

/// The route of a request, unless a setting hides it.
const Route* Router::route_of(const RequestHead& head) const {
  const Route* route = find_route(head.method, route_path(head));
  if (route == nullptr) return nullptr;
  const bool docs = route->endpoint == Endpoint::kDocs || route->endpoint == Endpoint::kOpenApi;
  const bool hidden =
      (docs && !docs_) || (route->endpoint == Endpoint::kTokenizerInfo && !tokenizer_info_);
  return hidden ? nullptr : route;
}

/// The path the table knows. Nothing is decoded or collapsed: what is not written like a route is
/// not that route, so the check for a key and the route can never disagree.
std::string_view Router::route_path(const RequestHead& head) const {
  std::string_view path = head.path;
  if (!root_path_.empty() && path.starts_with(root_path_) && path.size() > root_path_.size() &&
      path[root_path_.size()] == '/') {
    path.remove_prefix(root_path_.size());
  }
  return path;
}

bool Router::authorised(const RequestHead& head) const {
  if (keys_.empty()) return true;
  if (!needs_key(head.method, route_path(head))) return true;
  std::string_view given;
  if (const std::string* header = head.find("authorization")) {
    const size_t space = header->find(' ');
    if (space != std::string::npos && lower(header->substr(0, space)) == "bearer") {
      given = trimmed(std::string_view(*header).substr(space + 1));
    }
  }
  bool known = false;
  for (const std::string& key : keys_) known |= same_secret(key, given);
  return known;
}

bool Router::origin_allowed(const std::string& origin) const {
  return has_star(origins_) ||
         std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

Response Router::preflight(const RequestHead& head) const {
  Response response;
  response.content_type = "text/plain; charset=utf-8";
  if (!origin_allowed(*head.find("origin"))) {
    response.status = 400;
    response.body = "this origin is not allowed";
    return response;
  }
  response.body = "OK";
  response.headers.push_back({"access-control-allow-methods", methods_});
  response.headers.push_back({"access-control-max-age", "600"});
  const std::string* wanted = head.find("access-control-request-headers");
  if (!has_star(allowed_headers_)) {
    response.headers.push_back(
        {"access-control-allow-headers", fmt::format("{}", fmt::join(allowed_headers_, ", "))});
  } else if (wanted != nullptr) {
    response.headers.push_back({"access-control-allow-headers", *wanted});
  }
  return response;
}

std::optional<Response> Router::check(const RequestHead& head) {
  if (head.method == "OPTIONS" && head.find("origin") != nullptr &&
      head.find("access-control-request-method") != nullptr) {
    return preflight(head);
  }
  if (!authorised(head)) {
    rejected("auth");
    Response response = json_response(401, R"({"error":"Unauthorized"})");
    response.headers.push_back({"www-authenticate", "Bearer"});
    return response;
  }
  const Route* route = route_of(head);
  if (route == nullptr) {
    const std::string methods = allowed_methods(route_path(head));
    if (methods.empty() || find_route(head.method, route_path(head)) != nullptr) return detail(404);
    Response response = detail(405);
    response.headers.push_back({"allow", methods});
    return response;
  }
  if (route->endpoint == Endpoint::kNotYet) {
    return error_response(404, "NotFoundError",
                          fmt::format("{} {} is not supported yet", route->method, route->path));
  }
  if (!route->has_body()) return std::nullopt;
  if (!is_json(head)) {
    rejected("media");
    return error_response(415, reason_phrase(415), "the Content-Type must be application/json");
  }
  if (route->generates() && api_.draining()) {
    metrics_->add("vllm:admission_rejections_total", 1, {{"reason", "draining"}});
    return refusal_response(engine::Refusal::kDraining);
  }
  return std::nullopt;
}

void Router::handle(Request request, std::shared_ptr<Exchange> exchange) {
  const Route* route = route_of(request.head);
  switch (route == nullptr ? Endpoint::kNotYet : route->endpoint) {
    case Endpoint::kCompletions:
      return api_.completions(std::move(request), exchange);
    case Endpoint::kChatCompletions:
      return api_.chat(std::move(request), exchange);
    case Endpoint::kTokenize:
      return api_.tokenize(std::move(request), exchange);
    case Endpoint::kDetokenize:
      return api_.detokenize(std::move(request), exchange);
    case Endpoint::kPage:
    case Endpoint::kDocs:
    case Endpoint::kIcon:
      return exchange->reply(page_file(route->path));
    case Endpoint::kPageFile:
      return exchange->reply(page_file(route_path(request.head)));
    case Endpoint::kOpenApi:
      return exchange->reply(json_response(200, openapi_));
    case Endpoint::kHealth:
      return exchange->reply(api_.health());
    case Endpoint::kVersion:
      return exchange->reply(api_.version());
    case Endpoint::kLoad:
      return exchange->reply(api_.load());
    case Endpoint::kMetrics:
      return exchange->reply(api_.metrics_page());
    case Endpoint::kExperts:
      return exchange->reply(api_.experts());
    case Endpoint::kModels:
      return exchange->reply(api_.models());
    case Endpoint::kModel:
      return exchange->reply(api_.model(path_parameter(*route, route_path(request.head))));
    case Endpoint::kTokenizerInfo:
      return exchange->reply(api_.tokenizer_info());
    case Endpoint::kNotYet:
      return exchange->reply(detail(404));
  }
}

bool Router::is_probe(const RequestHead& head) {
  const Route* route = route_of(head);
  return route != nullptr && route->endpoint != Endpoint::kNotYet && !route->has_body() &&
         !head.has_body();
}

void Router::decorate(const RequestHead* head, Response& response) {
  response.headers.push_back({"server", "moesaic"});
  response.headers.push_back({"vary", "Origin"});
  response.headers.push_back({"x-content-type-options", "nosniff"});
  if (head == nullptr) return;
  if (const std::string* origin = head->find("origin"); origin && origin_allowed(*origin)) {
    const bool any = has_star(origins_) && !credentials_;
    response.headers.push_back({"access-control-allow-origin", any ? "*" : *origin});
    if (credentials_) response.headers.push_back({"access-control-allow-credentials", "true"});
  }
  if (echo_request_id_) {
    const std::string* id = head->find("x-request-id");
    response.headers.push_back({"x-request-id", id ? *id : random_hex() + random_hex()});
  }
}

void Router::answered(const RequestHead& head, int status) {
  const Route* route = route_of(head);
  if (route != nullptr && !route->counted) return;
  metrics_->add("http_requests_total", 1,
                {{"method", method_label(head.method)},
                 {"status", fmt::format("{}xx", status / 100)},
                 {"handler", route != nullptr ? std::string(route->path) : "none"}});
}

void Router::rejected(std::string_view reason) {
  metrics_->add("moesaic:http_rejections_total", 1, {{"reason", std::string(reason)}});
}

void Router::connections_changed(int64_t open) {
  try {
    metrics_->set("moesaic:http_connections", static_cast<double>(open));
  } catch (const std::bad_alloc&) {
    // The next connection sets it right. Connections end here, where nothing may be thrown.
  }
}

}  // namespace moesaic::server
