#pragma once

#include <string>

#include "server/openai_request.h"

namespace moesaic::server {

/// What /openapi.json says (OpenAPI 3.1): the table of routes and the table of request fields, with
/// the limits of this server. Routes that come later are left out, and /tokenizer_info unless
/// `tokenizer_info`; `keys` says that /v1 needs one.
std::string openapi_document(const RequestLimits& limits, bool tokenizer_info, bool keys);

}  // namespace moesaic::server
