#include "server/http_types.h"

#include <algorithm>

#include "server/json_writer.h"

namespace moesaic::server {

const std::string* RequestHead::find(std::string_view name) const {
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [&](const Header& header) { return header.name == name; });
  return found == headers.end() ? nullptr : &found->value;
}

Response json_response(int status, std::string body) {
  return {status, "application/json", {}, std::move(body), {}};
}

Response error_response(int status, std::string_view type, std::string_view message,
                        std::string_view param) {
  JsonWriter json;
  json.begin_object().key("error");
  json.begin_object().member("message", message).member("type", type).key("param");
  if (param.empty()) {
    json.null();
  } else {
    json.string(param);
  }
  json.member("code", int64_t{status}).end_object().end_object();
  Response response = json_response(status, json.take());
  if (status == 503) response.headers.push_back({"retry-after", "1"});
  return response;
}

Response unavailable_response(std::string_view message) {
  Response response = error_response(503, "ServiceUnavailableError", message);
  response.headers.push_back({"retry-after", "1"});
  return response;
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "";
  }
}

}  // namespace moesaic::server
