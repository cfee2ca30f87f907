#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/strict_json.h"

namespace moesaic::checkpoint {
namespace {

namespace json = boost::json;
using base::ModelFileError;
using base::printable;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxDims = 16;
constexpr std::string_view kLfsMark = "version https://git-lfs";

std::string_view text_at(std::span<const std::byte> bytes, size_t offset, size_t size) {
  return {reinterpret_cast<const char*>(bytes.data()) + offset, size};
}

/// The header's text, after the checks of its length.
std::string_view header_text(std::span<const std::byte> file, const std::string& path) {
  if (file.empty()) throw ModelFileError(path, "the file is empty; fetch it again", {}, 0);
  if (text_at(file, 0, std::min<size_t>(file.size(), kLfsMark.size())) == kLfsMark) {
    throw ModelFileError(path,
                         "this is a Git LFS pointer, not the weights; run `git lfs pull` in the "
                         "model's folder",
                         {}, 0);
  }
  if (file.size() < kLengthBytes) {
    throw ModelFileError(
        path, fmt::format("only {} bytes, too few for a header; fetch it again", file.size()), {},
        0);
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length == 0) throw ModelFileError(path, "the header is empty", {}, 0);
  if (length > kMaxHeader) {
    throw ModelFileError(
        path,
        fmt::format("header of {} bytes, more than {}; is this a safetensors file?", length,
                    kMaxHeader),
        {}, 0);
  }
  if (length > file.size() - kLengthBytes) {
    throw ModelFileError(path,
                         fmt::format("header of {} bytes in a file of {}; the file is truncated, "
                                     "fetch it again",
                                     length, file.size()),
                         {}, 0);
  }
  const std::string_view text = text_at(file, kLengthBytes, length);
  if (text.front() != '{') {
    throw ModelFileError(path, "the header does not start with '{'", {}, kLengthBytes);
  }
  return text;
}

/// One tensor's line of the header. `begin` and `end` are relative to the data.
struct Range {
  TensorEntry entry;
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// Reads the fields of one tensor, naming it in every complaint.
class EntryReader {
 public:
  EntryReader(const std::string& path, std::string_view name) : path_(path), name_(name) {}

  Range read(const json::value& value) const {
    if (!value.is_object()) refuse("expected an object with dtype, shape and data_offsets");
    const json::object& object = value.get_object();
    for (const auto& field : object) {
      const std::string_view key(field.key().data(), field.key().size());
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        refuse(fmt::format("unknown field '{}'", printable(key)));
      }
    }
    Range range;
    range.entry.name = std::string(name_);
    range.entry.file = path_;
    range.entry.view.dtype = dtype(field(object, "dtype"));
    range.entry.view.shape = shape(field(object, "shape"));
    offsets(field(object, "data_offsets"), range);
    check_size(range);
    return range;
  }

  [[noreturn]] void refuse(const std::string& problem) const {
    throw ModelFileError(path_, problem, printable(name_));
  }

 private:
  const json::value& field(const json::object& object, std::string_view key) const {
    const json::value* found = object.if_contains({key.data(), key.size()});
    if (found == nullptr) refuse(fmt::format("'{}' is missing", key));
    return *found;
  }

  tensor::DType dtype(const json::value& value) const {
    if (!value.is_string()) refuse("dtype is not a string");
    const std::string_view name(value.get_string().data(), value.get_string().size());
    const auto dtype = tensor::dtype_from_safetensors(name);
    if (!dtype) refuse(fmt::format("unknown dtype '{}'", printable(name)));
    return *dtype;
  }

  tensor::Shape shape(const json::value& value) const {
    if (!value.is_array()) refuse("shape is not an array");
    const json::array& dims = value.get_array();
    if (dims.size() > kMaxDims) {
      refuse(fmt::format("shape of {} dimensions, more than {}", dims.size(), kMaxDims));
    }
    tensor::Shape shape;
    for (const json::value& dim : dims) {
      if (!dim.is_int64() || dim.get_int64() < 0) {
        refuse("a dimension is not a whole number from 0 to 2^63 - 1");
      }
      shape.push_back(dim.get_int64());
    }
    return shape;
  }

  void offsets(const json::value& value, Range& range) const {
    if (!value.is_array() || value.get_array().size() != 2) {
      refuse("data_offsets is not an array of two numbers");
    }
    const json::array& pair = value.get_array();
    for (const json::value& number : pair) {
      if (!number.is_int64() || number.get_int64() < 0) {
        refuse("a data offset is not a whole number from 0 to 2^63 - 1");
      }
    }
    range.begin = static_cast<uint64_t>(pair[0].get_int64());
    range.end = static_cast<uint64_t>(pair[1].get_int64());
    if (range.begin > range.end) {
      refuse(fmt::format("data offsets [{}, {}) are reversed", range.begin, range.end));
    }
  }

  void check_size(const Range& range) const {
    int64_t bytes = static_cast<int64_t>(tensor::size_of(range.entry.view.dtype));
    for (int64_t dim : range.entry.view.shape) {
      if (__builtin_mul_overflow(bytes, dim, &bytes)) refuse("the shape's size overflows 64 bits");
    }
    if (static_cast<uint64_t>(bytes) != range.end - range.begin) {
      refuse(fmt::format("shape and dtype need {} bytes, data offsets [{}, {}) hold {}", bytes,
                         range.begin, range.end, range.end - range.begin));
    }
  }

  const std::string& path_;
  std::string_view name_;
};

void check_metadata(const json::value& value, const std::string& path) {
  if (!value.is_object()) throw ModelFileError(path, "__metadata__ is not an object");
  for (const auto& field : value.get_object()) {
    if (!field.value().is_string()) {
      throw ModelFileError(
          path, fmt::format("__metadata__ value of '{}' is not a string",
                            printable(std::string_view(field.key().data(), field.key().size()))));
    }
  }
}

/// Ranges must follow one another from the first data byte to the last of the file, so that no byte
/// has two owners or none.
void check_coverage(const std::vector<Range>& ranges, uint64_t data_start, uint64_t data_bytes,
                    const std::string& path) {
  uint64_t expected = 0;
  for (const Range& range : ranges) {
    if (range.begin != expected) {
      throw ModelFileError(
          path,
          range.begin < expected
              ? fmt::format("data overlaps the tensor before it, which ends at {}",
                            data_start + expected)
              : fmt::format("{} bytes before it belong to no tensor", range.begin - expected),
          printable(range.entry.name), data_start + range.begin);
    }
    expected = range.end;
    if (expected > data_bytes) {
      throw ModelFileError(path,
                           fmt::format("data ends at byte {}, past the file's {}; the file is "
                                       "truncated, fetch it again",
                                       data_start + expected, data_start + data_bytes),
                           printable(range.entry.name), data_start + range.begin);
    }
  }
  if (expected != data_bytes) {
    throw ModelFileError(
        path, fmt::format("{} bytes at the end belong to no tensor", data_bytes - expected), {},
        data_start + expected);
  }
}

}  // namespace

std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& path) {
  const std::string_view text = header_text(file, path);
  const json::object header = parse_strict_object(text, path, kLengthBytes);
  std::vector<Range> ranges;
  ranges.reserve(header.size());
  for (const auto& line : header) {
    const std::string_view name(line.key().data(), line.key().size());
    if (name == "__metadata__") {
      check_metadata(line.value(), path);
    } else {
      ranges.push_back(EntryReader(path, name).read(line.value()));
    }
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end, a.entry.name) < std::tie(b.begin, b.end, b.entry.name);
  });
  const uint64_t data_start = kLengthBytes + text.size();
  check_coverage(ranges, data_start, file.size() - data_start, path);
  std::vector<TensorEntry> entries;
  entries.reserve(ranges.size());
  for (Range& range : ranges) {
    range.entry.offset = data_start + range.begin;
    range.entry.view.data = file.data() + range.entry.offset;
    entries.push_back(std::move(range.entry));
  }
  return entries;
}

}  // namespace moesaic::checkpoint
