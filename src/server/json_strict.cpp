#include "server/json_strict.h"

#include <fmt/format.h>

#include <charconv>
#include <new>
#include <string>

#include "base/error.h"

namespace moesaic::server {
namespace {

namespace json = boost::json;
using base::JsonFault;

/// What went wrong, in our words and with none of the client's bytes.
std::string describe(const base::JsonError& error) {
  switch (error.fault()) {
    case JsonFault::kTooDeep:
      return "the JSON is nested deeper than --max-json-depth";
    case JsonFault::kTooMany:
      return "the JSON has more values than --max-json-nodes";
    case JsonFault::kEmpty:
    case JsonFault::kByteOrder:
    case JsonFault::kTrailing:
    case JsonFault::kDuplicate:
      return error.what();
    default:
      return fmt::format("{} (near byte {})", error.what(), error.offset());
  }
}

class CountedMemory : public json::memory_resource {
 public:
  explicit CountedMemory(ByteShare share) : share_(std::move(share)) {}

 private:
  // Boost gives keys back with another alignment than it took them with; none is above what plain
  // new has.
  void* do_allocate(size_t bytes, size_t alignment) override {
    MOESAIC_ASSERT(alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
    share_.grow(bytes);
    return ::operator new(bytes);
  }
  void do_deallocate(void* memory, size_t bytes, size_t) override {
    ::operator delete(memory);
    share_.shrink(bytes);
  }
  bool do_is_equal(const json::memory_resource& other) const noexcept override {
    return this == &other;
  }
  ByteShare share_;
};

}  // namespace

json::storage_ptr counted_memory(const ByteShare& like) {
  return json::make_shared_resource<CountedMemory>(like.another());
}

bool has_half_character(std::string_view text) {
  bool open = false;  // after the first half
  for (size_t at = 0; at < text.size(); ++at) {
    uint32_t code = 0;
    const char* digits = text.data() + at + 2;
    const bool escape = text.substr(at).starts_with("\\u") && at + 6 <= text.size() &&
                        std::from_chars(digits, digits + 4, code, 16).ptr == digits + 4;
    const bool second = escape && code >= 0xDC00 && code < 0xE000;
    if (second != open) return true;
    open = escape && code >= 0xD800 && code < 0xDC00;
    if (text[at] == '\\') at += escape ? 5 : 1;
  }
  return open;
}

std::optional<std::string_view> written_number(const json::value& value) {
  const json::object* object = value.if_object();
  if (object == nullptr || object->size() != 1) return std::nullopt;
  const auto& [name, text] = *object->begin();
  if (std::string_view(name.data(), name.size()) != base::kWrittenNumber || !text.is_string()) {
    return std::nullopt;
  }
  return std::string_view(text.get_string().data(), text.get_string().size());
}

json::value parse_json(std::string_view text, const base::JsonLimits& limits,
                       std::string_view param, const json::storage_ptr& memory,
                       base::JsonNumbers numbers) {
  try {
    return base::parse_strict_json(text, limits, memory, numbers);
  } catch (const base::JsonError& error) {
    throw base::RequestError(400, "Bad Request", describe(error), std::string(param));
  }
}

}  // namespace moesaic::server
