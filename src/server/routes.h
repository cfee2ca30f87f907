#pragma once

// Which request goes where, and in front of that authorisation, CORS, content types and the
// refusals that need no body.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/settings.h"
#include "server/api.h"
#include "server/http_server.h"
#include "server/route_table.h"

namespace moesaic::server {

/// Whether a request needs a key where there is one.
bool needs_key(std::string_view method, std::string_view path);

class Router : public HttpHandler {
 public:
  /// `api` outlives the router.
  Router(const base::Settings& settings, Api& api, std::shared_ptr<base::Metrics> metrics);

  std::optional<Response> check(const RequestHead& head) override;
  void handle(Request request, std::shared_ptr<Exchange> exchange) override;
  bool is_probe(const RequestHead& head) override;
  void decorate(const RequestHead* head, Response& response) override;
  void answered(const RequestHead& head, int status) override;
  void rejected(std::string_view reason) override;
  void connections_changed(int64_t open) override;

 private:
  std::string_view route_path(const RequestHead& head) const;
  const Route* route_of(const RequestHead& head) const;
  bool authorised(const RequestHead& head) const;
  bool origin_allowed(const std::string& origin) const;
  Response preflight(const RequestHead& head) const;

  Api& api_;
  std::shared_ptr<base::Metrics> metrics_;
  std::vector<std::string> keys_;
  std::string root_path_;
  std::vector<std::string> origins_;
  std::string methods_;
  std::vector<std::string> allowed_headers_;
  bool credentials_ = false;
  bool echo_request_id_ = false;
  bool docs_ = true;
  bool tokenizer_info_ = false;
  std::string openapi_;
};

}  // namespace moesaic::server
