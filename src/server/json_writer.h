#pragma once

// Writes compact JSON straight into a string, members in the order they are given.

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/byte_budget.h"

namespace moesaic::server {

/// Appends `text` as a JSON string with its quotes. `text` is UTF-8.
void append_json_string(std::string& out, std::string_view text);

class JsonWriter {
 public:
  JsonWriter() = default;
  /// Long text is counted in `share` as it grows, which throws RequestError when there is no room.
  explicit JsonWriter(ByteShare* share) : share_(share) {}
  ~JsonWriter() {
    if (share_ != nullptr) share_->shrink(counted_);
  }
  JsonWriter(const JsonWriter&) = delete;
  JsonWriter& operator=(const JsonWriter&) = delete;

  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }

  JsonWriter& key(std::string_view name);
  JsonWriter& string(std::string_view text);
  JsonWriter& integer(int64_t value);
  JsonWriter& unsigned_integer(uint64_t value);
  /// Shortest text that reads back as `value`; null when it is not finite.
  JsonWriter& number(double value);
  JsonWriter& boolean(bool value) { return raw(value ? "true" : "false"); }
  JsonWriter& null() { return raw("null"); }
  /// A value that is JSON already.
  JsonWriter& raw(std::string_view json);
  JsonWriter& integers(std::span<const int32_t> values);

  JsonWriter& member(std::string_view name, std::string_view text) {
    return key(name).string(text);
  }
  JsonWriter& member(std::string_view name, const char* text) { return key(name).string(text); }
  JsonWriter& member(std::string_view name, int64_t value) { return key(name).integer(value); }
  JsonWriter& member(std::string_view name, double value) { return key(name).number(value); }
  JsonWriter& member(std::string_view name, bool value) { return key(name).boolean(value); }
  JsonWriter& member_null(std::string_view name) { return key(name).null(); }

  std::string_view text() const { return out_; }
  /// The text; the share goes on counting it.
  std::string take() {
    counted_ = 0;
    return std::move(out_);
  }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();

  std::string out_;
  bool comma_ = false;
  ByteShare* share_ = nullptr;
  size_t counted_ = 0;
};

}  // namespace moesaic::server
