#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "base/error.h"
#include "checkpoint/checkpoint_testing.h"

namespace moesaic::checkpoint {
namespace {

using testing::safetensors_file;

std::vector<TensorEntry> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

/// Touches every byte of every tensor, so that the sanitizer sees what a reader would.
uint64_t read_all(const std::vector<TensorEntry>& entries) {
  uint64_t sum = 0;
  for (const TensorEntry& entry : entries) {
    for (size_t i = 0; i < entry.view.bytes(); ++i) {
      sum += static_cast<uint64_t>(entry.view.data[i]);
    }
  }
  return sum;
}

std::string good_file() {
  testing::SafetensorsWriter writer;
  writer.add_floats("b", tensor::DType::kF32, {2, 2}, {1, 2, 3, 4});
  writer.add_floats("a", tensor::DType::kBF16, {3}, {5, 6, 7});
  writer.add("empty", "I64", {0, 7}, "");
  writer.add("scalar", "U8", {}, "\x09");
  return writer.bytes();
}

TEST(Safetensors, ReadsAWellFormedFile) {
  const std::string file = good_file();
  const auto entries = parse(file);
  ASSERT_EQ(entries.size(), 4U);
  EXPECT_EQ(entries[0].name, "b");
  EXPECT_EQ(entries[0].view.shape, (tensor::Shape{2, 2}));
  EXPECT_EQ(tensor::load_float(tensor::DType::kF32, entries[0].view.data, 3), 4.0f);
  EXPECT_EQ(entries[1].view.dtype, tensor::DType::kBF16);
  EXPECT_EQ(tensor::load_float(tensor::DType::kBF16, entries[1].view.data, 2), 7.0f);
  EXPECT_EQ(entries[1].offset, entries[0].offset + 16);
  EXPECT_EQ(entries[2].view.bytes(), 0U);
  EXPECT_EQ(entries[3].view.elements(), 1);
  EXPECT_EQ(entries[3].file, "x.safetensors");
}

TEST(Safetensors, AcceptsMetadataEmptyFilesAndEveryDtype) {
  EXPECT_EQ(parse(safetensors_file(R"({"__metadata__":{"format":"pt"}})", "")).size(), 0U);
  EXPECT_EQ(parse(safetensors_file("{}", "")).size(), 0U);
  for (const char* name : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
                           "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}) {
    const auto dtype = tensor::dtype_from_safetensors(name);
    ASSERT_TRUE(dtype) << name;
    testing::SafetensorsWriter writer;
    writer.add("t", name, {3}, std::string(3 * tensor::size_of(*dtype), 'x'));
    EXPECT_EQ(parse(writer.bytes()).at(0).view.dtype, *dtype);
  }
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

struct BadFile {
  const char* what;
  std::string file;
  const char* message;
  const char* tensor = "";
};

std::vector<BadFile> bad_files() {
  const std::string f32 = "\"F32\"";
  const std::string data(8, 'd');
  const auto pair = [&](const std::string& a, const std::string& b) {
    return safetensors_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                                R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                            data);
  };
  return {
      {"zero bytes", "", "empty"},
      {"seven bytes", std::string(7, 'x'), "too few"},
      {"LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
       "git lfs pull"},
      {"header length 0", safetensors_file("{}", "", 0), "header is empty"},
      {"header of 100 MB + 1", safetensors_file("{}", "", 100'000'001), "more than 100000000"},
      {"header length 2^63 - 1", safetensors_file("{}", "", INT64_MAX), "more than 100000000"},
      {"header length 2^64 - 1", std::string(8, '\xff') + "{}", "more than 100000000"},
      {"header past the file", safetensors_file("{}", "", 3), "truncated"},
      {"header not an object", safetensors_file("[]", ""), "does not start with '{'"},
      {"header starts with space", safetensors_file(" {}", ""), "does not start with '{'"},
      {"header with BOM", safetensors_file("\xef\xbb\xbf{}", ""), "does not start with '{'"},
      {"header not JSON", safetensors_file("{abc}", ""), "not valid JSON"},
      {"header not UTF-8", safetensors_file("{\"\xc3\":1}", ""), "not valid JSON"},
      {"text after header object", safetensors_file("{}{}", ""), "after the JSON value"},
      {"deep header", safetensors_file("{\"t\":" + std::string(100, '['), ""), "deeper than 64"},
      {"duplicate tensor",
       safetensors_file(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                        R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                        ""),
       "'t' appears twice"},
      {"metadata not an object", safetensors_file(R"({"__metadata__":[]})", ""), "not an object"},
      {"metadata not strings", safetensors_file(R"({"__metadata__":{"a":1}})", ""), "not a string"},
      {"entry not an object", safetensors_file(R"({"t":[1]})", ""), "expected an object", "t"},
      {"dtype missing", safetensors_file(R"({"t":{"shape":[2],"data_offsets":[0,8]}})", data),
       "'dtype' is missing", "t"},
      {"shape missing", safetensors_file(R"({"t":{"dtype":"F32","data_offsets":[0,8]}})", data),
       "'shape' is missing", "t"},
      {"offsets missing", safetensors_file(R"({"t":{"dtype":"F32","shape":[2]}})", data),
       "'data_offsets' is missing", "t"},
      {"unknown field",
       safetensors_file(R"({"t":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"strides":[1]}})",
                        data),
       "unknown field 'strides'", "t"},
      {"dtype unknown", safetensors_file(one("\"F4\"", "[2]", "[0,8]"), data), "unknown dtype 'F4'",
       "t"},
      {"dtype a number", safetensors_file(one("4", "[2]", "[0,8]"), data), "not a string", "t"},
      {"shape not an array", safetensors_file(one(f32, "2", "[0,8]"), data), "not an array", "t"},
      {"dimension negative", safetensors_file(one(f32, "[-2]", "[0,8]"), data), "dimension", "t"},
      {"two negative dimensions", safetensors_file(one(f32, "[-2,-1]", "[0,8]"), data), "dimension",
       "t"},
      {"dimension fractional", safetensors_file(one(f32, "[2.0]", "[0,8]"), data), "dimension",
       "t"},
      {"dimension 2^63", safetensors_file(one(f32, "[9223372036854775808]", "[0,8]"), data),
       "dimension", "t"},
      {"dimension 1e30", safetensors_file(one(f32, "[1e30]", "[0,8]"), data), "dimension", "t"},
      {"product wraps to 0", safetensors_file(one(f32, "[4294967296,4294967296]", "[0,0]"), ""),
       "overflows", "t"},
      {"bytes wrap to 8", safetensors_file(one(f32, "[4611686018427387906]", "[0,8]"), data),
       "overflows", "t"},
      {"100 dimensions",
       safetensors_file(one(
                            f32,
                            "[1" +
                                [] {
                                  std::string ones;
                                  for (int i = 0; i < 99; ++i) ones += ",1";
                                  return ones;
                                }() +
                                "]",
                            "[0,4]"),
                        std::string(4, 'd')),
       "dimensions", "t"},
      {"shape too small", safetensors_file(one(f32, "[1]", "[0,8]"), data), "need 4 bytes", "t"},
      {"shape too large", safetensors_file(one(f32, "[3]", "[0,8]"), data), "need 12 bytes", "t"},
      {"offsets reversed", safetensors_file(one(f32, "[2]", "[8,0]"), data), "reversed", "t"},
      {"offset negative", safetensors_file(one(f32, "[2]", "[-8,0]"), data), "offset", "t"},
      {"offset 2^64", safetensors_file(one(f32, "[2]", "[0,18446744073709551616]"), data), "offset",
       "t"},
      {"one offset", safetensors_file(one(f32, "[2]", "[8]"), data), "two numbers", "t"},
      {"three offsets", safetensors_file(one(f32, "[2]", "[0,8,8]"), data), "two numbers", "t"},
      {"past the end", safetensors_file(one(f32, "[3]", "[0,12]"), data), "truncated", "t"},
      {"far past the end",
       safetensors_file(one("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"), data),
       "truncated", "t"},
      {"overlap", pair("[0,4]", "[3,7]"), "overlaps", "b"},
      {"same range twice", pair("[0,4]", "[0,4]"), "overlaps", "b"},
      {"gap", pair("[0,4]", "[5,9]"), "belong to no tensor", "b"},
      {"hole at the start", pair("[1,5]", "[5,9]"), "belong to no tensor", "a"},
      {"bytes after the last", safetensors_file(one(f32, "[1]", "[0,4]"), data),
       "end belong to no tensor"},
      {"bytes without tensors", safetensors_file("{}", data), "end belong to no tensor"},
  };
}

TEST(Safetensors, RefusesEveryMalformedFile) {
  for (const BadFile& bad : bad_files()) {
    SCOPED_TRACE(bad.what);
    try {
      parse(bad.file);
      ADD_FAILURE() << "was accepted";
    } catch (const base::ModelFileError& error) {
      EXPECT_EQ(error.exit_code(), base::ExitCode::kBadModel);
      EXPECT_EQ(error.file(), "x.safetensors");
      EXPECT_EQ(error.tensor(), bad.tensor);
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
    }
  }
}

TEST(Safetensors, NamesTheByteOffset) {
  const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})";
  try {
    parse(safetensors_file(header, std::string(9, 'd')));
    FAIL();
  } catch (const base::ModelFileError& error) {
    EXPECT_EQ(error.offset(), 8 + header.size() + 5);
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string small = good_file();
  for (size_t n = 0; n < small.size(); ++n) {
    // A copy of exactly that size, so that the sanitizer sees a read past it.
    const std::vector<std::byte> cut(reinterpret_cast<const std::byte*>(small.data()),
                                     reinterpret_cast<const std::byte*>(small.data()) + n);
    EXPECT_THROW(parse_safetensors(cut, "f"), base::ModelFileError) << n;
  }
  testing::SafetensorsWriter writer;
  for (int i = 0; i < 40; ++i) {
    writer.add("tensor." + std::to_string(i), "F32", {1000}, std::string(4000, 'x'));
  }
  const std::string large = writer.bytes();
  for (size_t n = 0; n < large.size(); n += 1024) {
    const std::vector<std::byte> cut(reinterpret_cast<const std::byte*>(large.data()),
                                     reinterpret_cast<const std::byte*>(large.data()) + n);
    EXPECT_THROW(parse_safetensors(cut, "f"), base::ModelFileError) << n;
  }
}

// Whatever bytes come, the answer is tensors that can be read or a ModelFileError.
TEST(Safetensors, RandomDamageIsHarmless) {
  const std::string original = good_file();
  std::mt19937 random(20240607);
  const std::string digits = "0123456789-[]{}\",:.eE \\";
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    const std::string file = testing::damaged(original, digits, random);
    const std::vector<std::byte> exact(
        reinterpret_cast<const std::byte*>(file.data()),
        reinterpret_cast<const std::byte*>(file.data()) + file.size());
    try {
      read_all(parse_safetensors(exact, "f"));
      ++accepted;
    } catch (const base::ModelFileError&) {
    }
  }
  EXPECT_GT(accepted, 50);  // damage to data or names alone is still a legal file
}

double seconds_to_parse(int tensors) {
  testing::SafetensorsWriter writer;
  for (int i = 0; i < tensors; ++i) writer.add("model.tensor." + std::to_string(i), "U8", {1}, "x");
  const std::string file = writer.bytes();
  double best = 1e9;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(parse(file).size(), static_cast<size_t>(tensors));
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

TEST(Safetensors, ManyTinyTensorsLoadInLinearTime) {
  const double small = seconds_to_parse(10'000);
  const double large = seconds_to_parse(100'000);
  EXPECT_LT(large, small * 40 + 0.2);  // quadratic would be 100 times
  EXPECT_LT(large, 10.0);
}

}  // namespace
}  // namespace moesaic::checkpoint
