// Any bytes as JSON: a value that, written out, reads as itself again, or JsonError.

#include <boost/json/serialize.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/strict_json.h"

namespace {

using moesaic::base::JsonNumbers;

constexpr moesaic::base::JsonLimits kLimits{.max_depth = 16, .max_nodes = 1000};

void check(std::string_view text, JsonNumbers numbers) {
  try {
    const auto value = moesaic::base::parse_strict_json(text, kLimits, {}, numbers);
    const std::string written = boost::json::serialize(value);
    MOESAIC_ASSERT(moesaic::base::parse_strict_json(written, {}, {}, numbers) == value);
  } catch (const moesaic::base::JsonError& error) {
    MOESAIC_ASSERT(error.offset() <= text.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(text, JsonNumbers::kValues);
  check(text, JsonNumbers::kWholeAsWritten);
  check(text, JsonNumbers::kAsWritten);
  return 0;
}
