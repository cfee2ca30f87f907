#include "checkpoint/gguf.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "base/printable.h"

namespace moesaic::checkpoint {
namespace {

using base::ModelFileError;
using base::printable;
using tensor::DType;

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kLfsMark = "version https://git-lfs";
constexpr uint64_t kMaxKey = 65535;
constexpr uint64_t kMaxName = 255;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
// The least that a key and a tensor take in a file, by which their counts are bounded.
constexpr uint64_t kLeastKey = 8 + 4 + 1;
constexpr uint64_t kLeastTensor = 8 + 4 + 4 + 8;

/// Element types of tensors that are not stored in blocks.
struct PlainType {
  uint32_t number;
  DType dtype;
};
constexpr std::array kPlainTypes = {PlainType{0, DType::kF32},  PlainType{1, DType::kF16},
                                    PlainType{24, DType::kI8},  PlainType{25, DType::kI16},
                                    PlainType{26, DType::kI32}, PlainType{27, DType::kI64},
                                    PlainType{28, DType::kF64}, PlainType{30, DType::kBF16}};

/// Types that files can have and that are not read, for messages.
struct OtherType {
  uint32_t number;
  const char* name;
};
constexpr std::array kOtherTypes = {OtherType{9, "Q8_1"}, OtherType{15, "Q8_K"},
                                    OtherType{40, "NVFP4"}};

/// Bytes of one value; 0 for those of no fixed size.
size_t size_of(GgufType type) {
  constexpr std::array<size_t, 13> kSizes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kSizes.at(static_cast<size_t>(type));
}

/// Reads numbers one after the other, never past the end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, const std::string& path) : file_(file), path_(path) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return file_.size() - at_; }
  const std::byte* data() const { return file_.data() + at_; }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, skip(sizeof(T), what), sizeof(T));
    return value;
  }
  std::string_view text(std::string_view what, uint64_t longest = UINT64_MAX) {
    const uint64_t begin = at_;
    const auto size = number<uint64_t>(what);
    if (size > longest) {
      fail(fmt::format("{} of {} bytes; at most {} are possible", what, size, longest), begin);
    }
    return {reinterpret_cast<const char*>(skip(size, what)), size};
  }
  const std::byte* skip(uint64_t bytes, std::string_view what) {
    if (bytes > left()) {
      fail(fmt::format("{} ends past the file's {} bytes; the file is truncated, fetch it again",
                       what, file_.size()),
           at_);
    }
    const std::byte* begin = data();
    at_ += bytes;
    return begin;
  }
  [[noreturn]] void fail(const std::string& problem, uint64_t offset,
                         std::string_view tensor = {}) const {
    throw ModelFileError(path_, problem, printable(tensor), offset);
  }

 private:
  std::span<const std::byte> file_;
  const std::string& path_;
  uint64_t at_ = 0;
};

/// The counts of tensors and keys, behind magic and version.
struct Counts {
  uint64_t tensors = 0, keys = 0;
};

Counts read_header(std::span<const std::byte> file, Cursor& cursor) {
  if (file.empty()) cursor.fail("the file is empty; fetch it again", 0);
  const std::string_view start(reinterpret_cast<const char*>(file.data()),
                               std::min(file.size(), kLfsMark.size()));
  if (start == kLfsMark) {
    cursor.fail(
        "this is a Git LFS pointer, not the weights; run `git lfs pull` in the model's "
        "folder",
        0);
  }
  if (!start.starts_with(kMagic)) cursor.fail("does not begin with GGUF; is this a GGUF file?", 0);
  cursor.skip(kMagic.size(), "the header");
  const auto version = cursor.number<uint32_t>("the version");
  if (version == 1) {
    cursor.fail("GGUF version 1, which is not read; convert the model again", kMagic.size());
  }
  if (version == 0x02000000 || version == 0x03000000) {
    cursor.fail("a big-endian file, which is not read; convert the model again", kMagic.size());
  }
  if (version != 2 && version != 3) {
    cursor.fail(fmt::format("GGUF version {}; known are 2 and 3", version), kMagic.size());
  }
  Counts counts;
  counts.tensors = cursor.number<uint64_t>("the count of tensors");
  counts.keys = cursor.number<uint64_t>("the count of keys");
  if (counts.tensors > cursor.left() / kLeastTensor || counts.keys > cursor.left() / kLeastKey) {
    cursor.fail(fmt::format("{} tensors and {} keys, more than the file's {} bytes can hold; it is "
                            "damaged or truncated, fetch it again",
                            counts.tensors, counts.keys, file.size()),
                8);
  }
  return counts;
}

GgufType read_type(Cursor& cursor, std::string_view key) {
  const uint64_t at = cursor.at();
  const auto type = cursor.number<uint32_t>("a key's type");
  if (type > static_cast<uint32_t>(GgufType::kF64)) {
    cursor.fail(fmt::format("'{}' has type {}, which is unknown", printable(key), type), at);
  }
  return static_cast<GgufType>(type);
}

/// Checks that all elements lie within the file, and moves past them.
GgufValue read_value(Cursor& cursor, std::string_view key) {
  GgufValue value;
  value.type = read_type(cursor, key);
  if (value.type == GgufType::kArray) {
    value.array = true;
    value.type = read_type(cursor, key);
    value.count = cursor.number<uint64_t>("an array's length");
    if (value.type == GgufType::kArray) {
      cursor.fail(fmt::format("'{}' is an array of arrays, which is not read", printable(key)),
                  cursor.at());
    }
  }
  value.offset = cursor.at();
  value.data = cursor.data();
  const std::string what = fmt::format("the value of '{}'", printable(key));
  if (value.type == GgufType::kString) {
    for (uint64_t i = 0; i < value.count; ++i) cursor.text(what);
    return value;
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(value.count, size_of(value.type), &bytes)) bytes = UINT64_MAX;
  const std::byte* data = cursor.skip(bytes, what);
  if (value.type == GgufType::kBool) {
    const auto* wrong =
        std::find_if(data, data + bytes, [](std::byte each) { return each > std::byte{1}; });
    if (wrong != data + bytes) {
      cursor.fail(fmt::format("'{}' is {}, neither true nor false", printable(key),
                              static_cast<int>(*wrong)),
                  value.offset + static_cast<uint64_t>(wrong - data));
    }
  }
  return value;
}

GgufMetadata read_metadata(Cursor& cursor, uint64_t count, const std::string& path) {
  std::map<std::string_view, GgufValue> values;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = cursor.at();
    const std::string_view key = cursor.text("a key", kMaxKey);
    if (!values.emplace(key, read_value(cursor, key)).second) {
      cursor.fail(fmt::format("the key '{}' appears twice", printable(key)), at);
    }
  }
  return {path, std::move(values)};
}

/// A tensor's entry. `start` is relative to the data.
struct Entry {
  TensorEntry tensor;
  uint64_t start = 0;
  uint64_t bytes = 0;
};

/// Reads one entry, naming its tensor in every complaint.
class EntryReader {
 public:
  EntryReader(Cursor& cursor, const std::string& path) : cursor_(cursor), at_(cursor.at()) {
    entry_.tensor.name = cursor.text("a tensor's name", kMaxName);
    entry_.tensor.file = path;
    const std::string_view name = entry_.tensor.name;
    const auto plain = [](char c) { return c >= ' ' && c <= '~'; };
    if (name.empty() || !std::all_of(name.begin(), name.end(), plain)) {
      refuse("a tensor's name must be of printable ASCII characters");
    }
  }

  Entry read() {
    read_dims();
    set_type(cursor_.number<uint32_t>("a tensor's type"));
    entry_.start = cursor_.number<uint64_t>("a tensor's offset");
    return std::move(entry_);
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const {
    cursor_.fail(problem, at_, entry_.tensor.name);
  }

  void read_dims() {
    const auto count = cursor_.number<uint32_t>("a tensor's dimensions");
    if (count > kMaxDims) refuse(fmt::format("{} dimensions, more than {}", count, kMaxDims));
    tensor::Shape& shape = entry_.tensor.view.shape;
    for (uint32_t i = 0; i < count; ++i) {
      const auto dim = cursor_.number<uint64_t>("a tensor's dimensions");
      if (dim > INT64_MAX) refuse(fmt::format("a dimension of {}", dim));
      shape.insert(shape.begin(), static_cast<int64_t>(dim));
    }
  }

  void set_type(uint32_t type) {
    tensor::View& view = entry_.tensor.view;
    const auto* plain = std::find_if(kPlainTypes.begin(), kPlainTypes.end(),
                                     [&](const PlainType& each) { return each.number == type; });
    if (plain != kPlainTypes.end()) {
      view.dtype = plain->dtype;
    } else if (const auto* format = tensor::find_block_format(type); format != nullptr) {
      entry_.tensor.format = format;
      view.dtype = DType::kU8;
      const int64_t inputs = view.shape.empty() ? 1 : view.shape.back();
      if (inputs % format->block_values != 0) {
        refuse(fmt::format("rows of {} values in blocks of {} ({})", inputs, format->block_values,
                           format->label));
      }
      if (__builtin_mul_overflow(inputs / format->block_values, format->block_bytes,
                                 &view.shape.back())) {
        refuse_size();
      }
    } else {
      refuse_type(type);
    }
    auto bytes = static_cast<int64_t>(tensor::size_of(view.dtype));
    for (const int64_t dim : view.shape) {
      if (__builtin_mul_overflow(bytes, dim, &bytes)) refuse_size();
    }
    entry_.bytes = static_cast<uint64_t>(bytes);
  }

  [[noreturn]] void refuse_size() const { refuse("the shape's size overflows 64 bits"); }

  [[noreturn]] void refuse_type(uint32_t type) const {
    std::vector<std::string_view> known = {"F32", "F16", "BF16"};
    for (const auto& format : tensor::block_formats()) known.push_back(format.label);
    const auto* other = std::find_if(kOtherTypes.begin(), kOtherTypes.end(),
                                     [&](const OtherType& each) { return each.number == type; });
    refuse(fmt::format("is of type {}{}, which is not read; known are {}", type,
                       other != kOtherTypes.end() ? fmt::format(" ({})", other->name) : "",
                       fmt::join(known, ", ")));
  }

  Cursor& cursor_;
  uint64_t at_;
  Entry entry_;
};

std::vector<Entry> read_entries(Cursor& cursor, uint64_t count, const std::string& path) {
  std::vector<Entry> entries;
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = cursor.at();
    entries.push_back(EntryReader(cursor, path).read());
    const std::string& name = entries.back().tensor.name;
    if (!names.insert(name).second) cursor.fail("the tensor appears twice", at, name);
  }
  return entries;
}

uint64_t up_to(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

uint64_t alignment_of(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.alignment";
  const auto alignment = static_cast<uint64_t>(
      metadata.integer(kKey, 1, kMaxAlignment, static_cast<int64_t>(kDefaultAlignment)));
  if ((alignment & (alignment - 1)) != 0) {
    metadata.fail(kKey, fmt::format("is {}, not a power of two", alignment));
  }
  return alignment;
}

/// Each tensor begins where the one before it ends, aligned, so that no byte has two owners; the
/// last may lack its padding.
void place(std::vector<Entry>& entries, std::span<const std::byte> file, const Cursor& cursor,
           uint64_t alignment) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.start, a.bytes) < std::tie(b.start, b.bytes);
  });
  const uint64_t data = std::min<uint64_t>(up_to(cursor.at(), alignment), file.size());
  const uint64_t size = file.size() - data;
  uint64_t expected = 0;
  for (Entry& entry : entries) {
    const std::string_view name = entry.tensor.name;
    if (entry.start != expected) {
      cursor.fail(
          fmt::format("its data lies at {} and should at {}: it {} the one before", entry.start,
                      expected, entry.start < expected ? "overlaps" : "leaves a gap behind"),
          data + std::min(entry.start, size), name);
    }
    if (entry.start > size || entry.bytes > size - entry.start) {
      cursor.fail(
          fmt::format("its {} bytes end past the file's {}; the file is truncated, fetch it "
                      "again",
                      entry.bytes, file.size()),
          data + entry.start, name);
    }
    expected = up_to(entry.start + entry.bytes, alignment);
    entry.tensor.offset = data + entry.start;
    entry.tensor.view.data = file.data() + entry.tensor.offset;
  }
  if (size > expected) {
    cursor.fail(fmt::format("{} bytes at the end belong to no tensor", size - expected),
                data + expected);
  }
}

}  // namespace

tensor::Shape TensorEntry::shape() const {
  tensor::Shape shape = view.shape;
  if (format != nullptr) shape.back() = shape.back() / format->block_bytes * format->block_values;
  return shape;
}

std::string_view TensorEntry::type_name() const {
  return format != nullptr ? format->label : tensor::to_string(view.dtype);
}

bool is_gguf(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() &&
         std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

GgufFile parse_gguf(std::span<const std::byte> file, const std::string& path) {
  Cursor cursor(file, path);
  const Counts counts = read_header(file, cursor);
  GgufFile parsed{read_metadata(cursor, counts.keys, path), {}};
  std::vector<Entry> entries = read_entries(cursor, counts.tensors, path);
  place(entries, file, cursor, alignment_of(parsed.metadata));
  for (Entry& entry : entries) parsed.tensors.push_back(std::move(entry.tensor));
  return parsed;
}

}  // namespace moesaic::checkpoint
