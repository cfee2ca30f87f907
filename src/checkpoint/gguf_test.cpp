#include "checkpoint/gguf.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <random>

#include "base/error.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/gguf_testing.h"

namespace moesaic::checkpoint {
namespace {

using testing::gguf_array;
using testing::gguf_entry;
using testing::gguf_key;
using testing::gguf_string;
using testing::GgufPieces;
using testing::GgufWriter;
using testing::little_endian;

/// A copy of exactly its size, so that the sanitizer sees a read past it.
class File {
 public:
  explicit File(const std::string& content)
      : bytes_(reinterpret_cast<const std::byte*>(content.data()),
               reinterpret_cast<const std::byte*>(content.data()) + content.size()) {}
  GgufFile parse() const { return parse_gguf(bytes_, "x.gguf"); }

 private:
  std::vector<std::byte> bytes_;
};

/// Touches every byte of every tensor and every value, as a reader would.
uint64_t read_all(const GgufFile& file) {
  uint64_t sum = 0;
  for (const TensorEntry& entry : file.tensors) {
    for (size_t i = 0; i < entry.view.bytes(); ++i) {
      sum += static_cast<uint64_t>(entry.view.data[i]);
    }
  }
  for (const std::string_view key : file.metadata.keys()) {
    const auto attempt = [&](const auto& read) {
      try {
        sum += static_cast<uint64_t>(read() != decltype(read()){});
      } catch (const base::ModelFileError&) {
      }
    };
    attempt([&] { return file.metadata.integer(key, INT64_MIN, INT64_MAX); });
    attempt([&] { return file.metadata.number(key); });
    attempt([&] { return file.metadata.boolean(key); });
    attempt([&] { return file.metadata.string(key); });
    attempt([&] { return file.metadata.strings(key, 1000).size(); });
    attempt([&] { return file.metadata.integers(key, 0, 1000, 1000).size(); });
    attempt([&] { return file.metadata.numbers(key, 1000).size(); });
  }
  return sum;
}

std::string good_file() {
  GgufWriter writer;
  writer.add_string("general.architecture", "llama");
  writer.add_u32("llama.block_count", 2);
  writer.add_f32("llama.rope.freq_base", 1e6F);
  writer.add_bool("tokenizer.ggml.add_bos_token", true);
  writer.add_strings("tokenizer.ggml.tokens", {"a", "", "\xc3\xa9"});
  writer.add_i32s("tokenizer.ggml.token_type", {1, 2, 3});
  writer.add_f32s("tokenizer.ggml.scores", {0, -1, -2.5F});
  writer.add_floats("b", {2, 3}, {1, 2, 3, 4, 5, 6});
  writer.add("q", 8, {3, 2, 64}, std::string(size_t{3} * 2 * 2 * 34, 'q'));
  writer.add("h", 30, {5}, std::string(10, 'h'));
  return writer.bytes();
}

TEST(Gguf, ReadsAWellFormedFile) {
  const File file(good_file());
  const GgufFile parsed = file.parse();
  const GgufMetadata& metadata = parsed.metadata;
  EXPECT_EQ(metadata.string("general.architecture"), "llama");
  EXPECT_EQ(metadata.integer("llama.block_count", 1, 10), 2);
  EXPECT_EQ(metadata.number("llama.rope.freq_base"), 1e6);
  EXPECT_EQ(metadata.number("llama.block_count"), 2.0);
  EXPECT_TRUE(metadata.boolean("tokenizer.ggml.add_bos_token"));
  EXPECT_EQ(metadata.strings("tokenizer.ggml.tokens", 3),
            (std::vector<std::string_view>{"a", "", "\xc3\xa9"}));
  EXPECT_EQ(metadata.integers("tokenizer.ggml.token_type", 1, 6, 3),
            (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(metadata.integers("llama.block_count", 0, 9, 3), (std::vector<int64_t>{2}));
  EXPECT_EQ(metadata.numbers("tokenizer.ggml.scores", 3), (std::vector<float>{0, -1, -2.5F}));
  EXPECT_EQ(metadata.keys("llama."),
            (std::vector<std::string_view>{"llama.block_count", "llama.rope.freq_base"}));
  EXPECT_FALSE(metadata.has("llama"));
  EXPECT_EQ(metadata.integer("absent", 0, 9, 7), 7);
  EXPECT_EQ(metadata.string("absent", "x"), "x");

  ASSERT_EQ(parsed.tensors.size(), 3U);
  const TensorEntry& b = parsed.tensors[0];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.view.shape, (tensor::Shape{2, 3}));
  EXPECT_EQ(b.format, nullptr);
  EXPECT_EQ(tensor::load_float(b.view.dtype, b.view.row(1), 2), 6.0F);
  const TensorEntry& q = parsed.tensors[1];
  ASSERT_NE(q.format, nullptr);
  EXPECT_EQ(q.format->name, "q8_0");
  EXPECT_EQ(q.view.dtype, tensor::DType::kU8);
  EXPECT_EQ(q.view.shape, (tensor::Shape{3, 2, 68}));
  EXPECT_EQ(q.shape(), (tensor::Shape{3, 2, 64}));
  EXPECT_EQ(q.type_name(), "Q8_0");
  EXPECT_EQ(q.offset, b.offset + 32);
  EXPECT_EQ(parsed.tensors[2].view.dtype, tensor::DType::kBF16);
  EXPECT_EQ(parsed.tensors[2].type_name(), "BF16");
}

TEST(Gguf, ReadsEveryTypeOfNumber) {
  GgufPieces pieces;
  const auto add = [&](uint32_t type, const std::string& value) {
    pieces.keys.push_back(gguf_key("t" + std::to_string(type), type, value));
  };
  add(0, little_endian<uint8_t>(200));
  add(1, little_endian<int8_t>(-100));
  add(2, little_endian<uint16_t>(60000));
  add(3, little_endian<int16_t>(-30000));
  add(4, little_endian<uint32_t>(4000000000U));
  add(5, little_endian<int32_t>(-2000000000));
  add(6, little_endian<float>(1.5F));
  add(10, little_endian<uint64_t>(UINT64_MAX));
  add(11, little_endian<int64_t>(INT64_MIN));
  add(12, little_endian<double>(0.1));
  for (const uint32_t version : {2U, 3U}) {
    pieces.version = version;
    const File file(pieces.file());
    const GgufFile parsed = file.parse();
    const auto integer = [&](const char* key) {
      return parsed.metadata.integer(key, INT64_MIN, INT64_MAX);
    };
    EXPECT_EQ(integer("t0"), 200);
    EXPECT_EQ(integer("t1"), -100);
    EXPECT_EQ(integer("t2"), 60000);
    EXPECT_EQ(integer("t3"), -30000);
    EXPECT_EQ(integer("t4"), 4000000000);
    EXPECT_EQ(integer("t5"), -2000000000);
    EXPECT_EQ(integer("t10"), INT64_MAX);  // as large as it gets
    EXPECT_EQ(integer("t11"), INT64_MIN);
    EXPECT_EQ(parsed.metadata.number("t6"), 1.5);
    EXPECT_EQ(parsed.metadata.number("t12"), 0.1);
    EXPECT_THROW(integer("t6"), base::ModelFileError);
  }
}

struct BadFile {
  const char* what;
  std::string file;
  const char* message;
  const char* tensor = "";
};

std::string with_key(const std::string& key) {
  GgufPieces pieces;
  pieces.keys = {key};
  return pieces.file();
}

std::string with_entries(const std::vector<std::string>& entries, size_t data = 64) {
  GgufPieces pieces;
  pieces.entries = entries;
  pieces.data = std::string(data, 'd');
  return pieces.file();
}

std::string with_alignment(uint32_t alignment, size_t laid_out) {
  GgufPieces pieces;
  pieces.keys = {gguf_key("general.alignment", 4, little_endian(alignment))};
  pieces.entries = {gguf_entry("t", {4}, 0, 0)};
  pieces.data = std::string(16, 'd');
  pieces.alignment = laid_out;
  return pieces.file();
}

std::string with_header(const std::string& magic, uint32_t version, int64_t tensors, int64_t keys) {
  GgufPieces pieces;
  pieces.magic = magic;
  pieces.version = version;
  pieces.tensor_count = tensors;
  pieces.key_count = keys;
  return pieces.file();
}

std::vector<BadFile> bad_headers() {
  return {
      {"zero bytes", "", "empty"},
      {"three bytes", "GGU", "does not begin with GGUF"},
      {"four bytes", "GGUF", "truncated"},
      {"another magic", with_header("GGML", 3, 0, 0), "does not begin with GGUF"},
      {"LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
       "git lfs pull"},
      {"version 1", with_header("GGUF", 1, 0, 0), "version 1"},
      {"version 0", with_header("GGUF", 0, 0, 0), "version 0"},
      {"version 4", with_header("GGUF", 4, 0, 0), "version 4"},
      {"big-endian", with_header("GGUF", 0x03000000, 0, 0), "big-endian"},
      {"no counts", std::string("GGUF\3\0\0\0", 8), "truncated"},
      {"one tensor that is not there", with_header("GGUF", 3, 1, 0), "more than"},
      {"2^63 - 1 tensors", with_header("GGUF", 3, INT64_MAX, 0), "more than"},
      {"2^63 - 1 keys", with_header("GGUF", 3, 0, INT64_MAX), "more than"},
  };
}

std::vector<BadFile> bad_keys() {
  const std::string huge = little_endian<uint64_t>(UINT64_MAX);
  const std::string key = gguf_string("k");
  return {
      {"key longer than the file", with_key(huge + little_endian<uint64_t>(0)), "at most 65535"},
      {"key past the end", with_key(little_endian<uint64_t>(60000) + std::string(9, 'k')),
       "truncated"},
      {"key without a type", with_key(little_endian<uint64_t>(5) + "kkkkk"), "truncated"},
      {"type 13", with_key(key + little_endian<uint32_t>(13) + std::string(8, 'x')), "type 13"},
      {"type 2^32 - 1", with_key(key + std::string(12, '\xff')), "type 4294967295"},
      {"value cut", with_key(gguf_key("k", 10, "1234")), "truncated"},
      {"string of 2^64 - 1 bytes", with_key(gguf_key("k", 8, huge)), "truncated"},
      {"string past the end", with_key(gguf_key("k", 8, little_endian<uint64_t>(9) + "x")),
       "truncated"},
      {"bool of 2", with_key(gguf_key("k", 7, "\2")), "neither true nor false"},
      {"bool of 2 in an array", with_key(gguf_key("k", 9, gguf_array(7, 3, {"\0\1\2", 3}))),
       "neither true nor false"},
      {"array of unknown type", with_key(gguf_key("k", 9, gguf_array(99, 1, "xxxxxxxx"))),
       "type 99"},
      {"array of arrays", with_key(gguf_key("k", 9, gguf_array(9, 1, gguf_array(4, 0, "")))),
       "array of arrays"},
      {"array of 2^64 - 1 bytes", with_key(gguf_key("k", 9, gguf_array(0, UINT64_MAX, ""))),
       "truncated"},
      {"array whose size wraps to 0",
       with_key(gguf_key("k", 9, gguf_array(4, uint64_t{1} << 62, ""))), "truncated"},
      {"array of one more than there is",
       with_key(gguf_key("k", 9, gguf_array(4, 3, std::string(8, 'x')))), "truncated"},
      {"2^60 strings",
       with_key(gguf_key("k", 9, gguf_array(8, uint64_t{1} << 60, gguf_string("x")))), "truncated"},
      {"array with a string past the end",
       with_key(gguf_key("k", 9, gguf_array(8, 2, gguf_string("x") + huge))), "truncated"},
      {"key twice",
       [] {
         GgufPieces pieces;
         pieces.keys = {gguf_key("k", 4, "1234"), gguf_key("k", 0, "1")};
         return pieces.file();
       }(),
       "'k' appears twice"},
      {"alignment 0", with_alignment(0, 32), "from 1 to"},
      {"alignment 24", with_alignment(24, 24), "power of two"},
      {"alignment 2^31", with_alignment(1U << 31, 32), "from 1 to"},
      {"alignment a string", with_key(gguf_key("general.alignment", 8, gguf_string("32"))),
       "not a whole number"},
  };
}

std::vector<BadFile> bad_tensors() {
  const auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                      size_t data = 64) {
    return with_entries({gguf_entry("t", dims, type, offset)}, data);
  };
  const uint64_t half = uint64_t{1} << 32;
  return {
      {"name of 2^64 - 1 bytes", with_entries({std::string(24, '\xff')}), "at most 255"},
      {"name of 256 bytes", with_entries({gguf_entry(std::string(256, 'n'), {1}, 0, 0)}),
       "at most 255"},
      {"no name", with_entries({gguf_entry("", {16}, 0, 0)}), "printable ASCII"},
      {"name with a newline", with_entries({gguf_entry("a\nb", {16}, 0, 0)}), "printable ASCII",
       "a?b"},
      {"five dimensions", one({1, 1, 1, 1, 16}, 0, 0), "5 dimensions", "t"},
      {"2^32 - 1 dimensions",
       with_entries({gguf_string("t") + std::string(4, '\xff') + std::string(40, 'x')}),
       "4294967295 dimensions", "t"},
      {"dimension 2^63", one({uint64_t{1} << 63}, 0, 0), "dimension of 9223372036854775808", "t"},
      {"product wraps to 0", one({half, half}, 0, 0), "overflows", "t"},
      {"bytes wrap to 0", one({uint64_t{1} << 62}, 0, 0), "overflows", "t"},
      {"bytes of blocks wrap", one({uint64_t{1} << 62, 8}, 8, 0), "overflows", "t"},
      {"type 4, removed", one({32}, 4, 0), "type 4,", "t"},
      {"type 2^32 - 1", one({32}, UINT32_MAX, 0), "type 4294967295", "t"},
      {"a type that is not read", one({256}, 15, 0), "15 (Q8_K)", "t"},
      {"rows that are no whole blocks", one({48}, 2, 0), "rows of 48 values in blocks of 32", "t"},
      {"a scalar in blocks", one({}, 2, 0), "rows of 1 values", "t"},
      {"data past the end", one({17}, 0, 0), "truncated", "t"},
      {"data far past the end", one({uint64_t{1} << 60}, 0, 0), "truncated", "t"},
      {"offset not aligned", one({8}, 0, 4), "should at 0", "t"},
      {"offset past the end", one({8}, 0, 96), "leaves a gap", "t"},
      {"offset 2^64 - 32", one({8}, 0, UINT64_MAX - 31), "leaves a gap", "t"},
      {"bytes after the last", one({8}, 0, 0), "32 bytes at the end"},
      {"data without tensors", with_entries({}), "at the end belong to no tensor"},
      {"tensor twice", with_entries({gguf_entry("t", {8}, 0, 0), gguf_entry("t", {8}, 0, 32)}),
       "appears twice", "t"},
      {"overlap", with_entries({gguf_entry("a", {16}, 0, 0), gguf_entry("b", {8}, 0, 32)}),
       "overlaps", "b"},
      {"same data twice", with_entries({gguf_entry("a", {16}, 0, 0), gguf_entry("b", {16}, 0, 0)}),
       "overlaps", "b"},
      {"gap", with_entries({gguf_entry("a", {8}, 0, 0), gguf_entry("b", {8}, 0, 64)}, 96),
       "leaves a gap", "b"},
  };
}

TEST(Gguf, RefusesEveryMalformedFile) {
  std::vector<BadFile> all = bad_headers();
  for (const auto& more : {bad_keys(), bad_tensors()})
    all.insert(all.end(), more.begin(), more.end());
  for (const BadFile& bad : all) {
    SCOPED_TRACE(bad.what);
    try {
      File(bad.file).parse();
      ADD_FAILURE() << "was accepted";
    } catch (const base::ModelFileError& error) {
      EXPECT_EQ(error.exit_code(), base::ExitCode::kBadModel);
      EXPECT_EQ(error.file(), "x.gguf");
      EXPECT_EQ(error.tensor(), bad.tensor);
      EXPECT_TRUE(error.offset().has_value());
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
    }
  }
}

TEST(Gguf, AcceptsOtherAlignmentsAndAMissingLastPadding) {
  EXPECT_EQ(File(with_alignment(8, 8)).parse().tensors.size(), 1U);
  EXPECT_EQ(File(with_alignment(4096, 4096)).parse().tensors.size(), 1U);
  EXPECT_EQ(File(with_entries({gguf_entry("t", {3}, 0, 0)}, 12)).parse().tensors.size(), 1U);
  EXPECT_EQ(File(GgufPieces{}.file()).parse().tensors.size(), 0U);
}

TEST(Gguf, ValuesOfTheWrongKindAreNamed) {
  const File file(good_file());
  const GgufFile parsed = file.parse();
  const auto refused = [&](const auto& read, const char* message) {
    try {
      read(parsed.metadata);
      ADD_FAILURE() << "was read: " << message;
    } catch (const base::ModelFileError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  using M = const GgufMetadata&;
  refused([](M m) { m.integer("x", 0, 1); }, "'x' is missing");
  refused([](M m) { m.integer("llama.block_count", 3, 9); }, "is 2; it must be from 3 to 9");
  refused([](M m) { m.integer("general.architecture", 0, 9); }, "not a whole number");
  refused([](M m) { m.integer("tokenizer.ggml.token_type", 0, 9); }, "is an array");
  refused([](M m) { m.string("llama.block_count"); }, "not a string");
  refused([](M m) { m.boolean("llama.block_count"); }, "true or false");
  refused([](M m) { m.number("general.architecture"); }, "not a whole number");
  refused([](M m) { m.strings("tokenizer.ggml.tokens", 2); }, "has 3 elements; at most 2");
  refused([](M m) { m.strings("tokenizer.ggml.scores", 9); }, "not a list of strings");
  refused([](M m) { m.integers("tokenizer.ggml.token_type", 1, 2, 3); }, "is 3;");
  GgufPieces pieces;
  pieces.keys = {gguf_key("s", 8, gguf_string("\xff")), gguf_key("n", 6, little_endian(NAN))};
  const File odd(pieces.file());
  const GgufFile other = odd.parse();
  EXPECT_THROW(other.metadata.string("s"), base::ModelFileError);
  EXPECT_THROW(other.metadata.number("n"), base::ModelFileError);
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string file = good_file();
  // The last tensor may lack its padding, so data ends 22 bytes before the file.
  for (size_t n = 0; n < file.size() - 22; ++n) {
    EXPECT_THROW(File(file.substr(0, n)).parse(), base::ModelFileError) << n;
  }
  EXPECT_EQ(File(file.substr(0, file.size() - 22)).parse().tensors.size(), 3U);
}

// Whatever bytes come, the answer is values that can be read or a ModelFileError.
TEST(Gguf, RandomDamageIsHarmless) {
  const std::string original = good_file();
  std::mt19937 random(20240607);
  const std::string odd("\x00\x01\x04\x08\x09\x20\x7f\x80\xff", 9);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::string file = testing::damaged(original, odd, random);
    try {
      const File exact(file);
      read_all(exact.parse());
      ++accepted;
    } catch (const base::ModelFileError&) {
    }
  }
  EXPECT_GT(accepted, 200);  // damage to data or names alone is still a legal file
}

double seconds_to_parse(int count) {
  GgufWriter writer;
  for (int i = 0; i < count; ++i) {
    writer.add_u32("key." + std::to_string(i), 1);
    writer.add("blk." + std::to_string(i), 24, {1}, "x");
  }
  const std::string bytes = writer.bytes();
  double best = 1e9;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(parse_gguf(std::as_bytes(std::span(bytes)), "f").tensors.size(),
              static_cast<size_t>(count));
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

TEST(Gguf, ManyKeysAndTensorsLoadInLinearTime) {
  const double small = seconds_to_parse(10'000);
  const double large = seconds_to_parse(100'000);
  EXPECT_LT(large, small * 40 + 0.2);  // quadratic would be 100 times
  EXPECT_LT(large, 10.0);
}

}  // namespace
}  // namespace moesaic::checkpoint
