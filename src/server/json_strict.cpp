#include "server/json_strict.h"

#include <fmt/format.h>

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
  void* do_allocate(size_t bytes, size_t alignment) override {
    share_.grow(bytes);
    return ::operator new(bytes, std::align_val_t(alignment));
  }
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override {
    ::operator delete(memory, std::align_val_t(alignment));
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

json::value parse_json(std::string_view text, const base::JsonLimits& limits,
                       std::string_view param, const json::storage_ptr& memory) {
  try {
    return base::parse_strict_json(text, limits, memory);
  } catch (const base::JsonError& error) {
    throw base::RequestError(400, "Bad Request", describe(error), std::string(param));
  }
}

}  // namespace moesaic::server
