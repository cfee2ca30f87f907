#pragma once

// The table of routes: what requests are dispatched by, and what /openapi.json lists.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/request_fields.h"

namespace moesaic::server {

/// What answers a request.
enum class Endpoint : uint8_t {
  // At once, on the I/O thread, without a body.
  kPage,
  kDocs,
  kOpenApi,
  kIcon,
  kPageFile,
  kHealth,
  kVersion,
  kLoad,
  kMetrics,
  kExperts,
  kModels,
  kModel,
  kTokenizerInfo,
  // With a JSON body, on the text threads.
  kCompletions,
  kChatCompletions,
  kTokenize,
  kDetokenize,
  kNotYet,  ///< known, not supported yet
};

struct Route {
  std::string_view method;
  std::string_view
      path;  ///< a part in braces, at its end, stands for the rest of a path, slashes included
  Endpoint endpoint;
  std::string_view summary = {};
  std::string_view answer = {};  ///< content type of a 200; "" = no body
  unsigned bodies = kNoBody;     ///< what a POST may send
  bool counted = true;           ///< in http_requests_total

  bool has_body() const { return bodies != kNoBody; }
  bool generates() const { return (bodies & (kCompletion | kChat)) != 0; }
};

std::span<const Route> routes();

/// The route of a path as it was sent, a slash at its end aside; HEAD is GET. Null when there is
/// none.
const Route* find_route(std::string_view method, std::string_view path);
/// What stands for a route's part in braces in `path`.
std::string_view path_parameter(const Route& route, std::string_view path);
/// Methods of a path for Allow; "" when there is no such path.
std::string allowed_methods(std::string_view path);

}  // namespace moesaic::server
