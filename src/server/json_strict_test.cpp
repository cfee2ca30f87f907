#include "server/json_strict.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace moesaic::server {
namespace {

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

bool accepted(const std::string& text, JsonLimits limits = {}) {
  try {
    parse_json(text, limits, "body");
    return true;
  } catch (const base::RequestError& error) {
    EXPECT_EQ(error.status(), 400);
    EXPECT_EQ(error.param(), "body");
    return false;
  }
}

TEST(JsonStrict, AcceptsWhatRfc8259Allows) {
  for (const char* text :
       {"{}", "[]", " \t\r\n1 ", "\"\\u0000\"", "\"\\ud83d\\ude00\"", "\"\xF0\x9F\x98\x80\"", "-0",
        "1e308", "18446744073709551615", "[{\"a\":1},{\"a\":2}]", "{\"a\":{\"a\":1}}", "null"}) {
    EXPECT_TRUE(accepted(text)) << text;
  }
}

TEST(JsonStrict, RefusesWhatTwoParsersCouldReadDifferently) {
  const std::string bad[] = {
      "",
      "  ",
      "{",
      "{:",
      "{\"a\":1,}",
      "{'a':1}",
      "[1 2]",
      "nul",
      "NaN",
      "[NaN]",
      "Infinity",
      "-Infinity",
      "1e999",
      "[-1e999]",
      "01",
      "+1",
      ".5",
      "1.",
      "0x10",
      "{\"a\":1,\"a\":2}",
      "{\"b\":{\"a\":1,\"c\":0,\"a\":2}}",
      "{\"\\u0061\":1,\"a\":2}",
      "{} {}",
      "{}x",
      "// c\n{}",
      "{} /* c */",
      "\xEF\xBB\xBF{}",
      "\"\xFF\"",
      "\"\xC0\xAF\"",
      "\"\xE0\x80\xAF\"",
      "\"\xED\xA0\xBD\xED\xB8\x80\"",
      "\"\xC4\xE3\xBA\xC3\"",
      "\"\xF4\x90\x80\x80\"",
      "\"\\ud83d\"",
      "\"\\ud83dx\"",
      "\"\\ude00\"",
      "\"\\ud83d\\ud83d\"",
      "\"a\nb\"",
      "\"\\x41\"",
      "\"open",
  };
  for (const std::string& text : bad) EXPECT_FALSE(accepted(text)) << text;
  EXPECT_FALSE(accepted(std::string("{}\0", 3)));
}

TEST(JsonStrict, DepthIsBoundedEverywhere) {
  EXPECT_TRUE(accepted(nested(64)));
  EXPECT_FALSE(accepted(nested(65)));
  EXPECT_FALSE(accepted("{\"unknown\":" + nested(64) + "}"));
  EXPECT_FALSE(accepted(std::string(1 << 20, '[')));
}

TEST(JsonStrict, ValuesAreCountedButTokenIdsAreFree) {
  const JsonLimits limits{64, 10};
  EXPECT_TRUE(accepted("[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]", limits));
  EXPECT_FALSE(accepted("[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\"]", limits));
  EXPECT_TRUE(accepted("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", limits));
  EXPECT_FALSE(accepted("[{},{},{},{},{},{},{},{},{},{}]", limits));
}

TEST(JsonStrict, NumbersKeepTheirDigits) {
  const auto read = [](const std::string& text, Numbers numbers) {
    return parse_json(text, {}, "body", {}, numbers);
  };
  // Whole numbers of 64 bits and what a double holds are values.
  EXPECT_EQ(read("-9223372036854775808", Numbers::kValues).as_int64(), INT64_MIN);
  EXPECT_EQ(read("18446744073709551615", Numbers::kValues).as_uint64(), UINT64_MAX);
  EXPECT_FALSE(written_number(read("2.50", Numbers::kValues)));
  for (const char* text : {"18446744073709551616", "-9223372036854775809",
                           "123456789012345678901234567890"
                           "12345678901234567890123456789012345678901234567890"}) {
    for (const Numbers numbers : {Numbers::kValues, Numbers::kAsWritten}) {
      EXPECT_EQ(written_number(read(text, numbers)), text);
    }
  }
  for (const char* text : {"2.50", "-0", "-0.0", "1e5", "1E+05", "0.10"}) {
    EXPECT_EQ(written_number(read(text, Numbers::kAsWritten)), text);
  }
  EXPECT_EQ(read("-12", Numbers::kAsWritten).as_int64(), -12);
  EXPECT_FALSE(written_number(read(R"({"a": 1})", Numbers::kValues)));
}

TEST(JsonStrict, HalfCharactersAreFound) {
  for (const char* text : {"\\ud83d", "\\ud83d\"", "\\ud83dx", "\\ude00", "\\ud83d\\ud83d\\ude00",
                           "x\\uDFFF", "\\ud83d\\n", "\\\\\\ud83d"}) {
    EXPECT_TRUE(has_half_character(text)) << text;
  }
  for (const char* text :
       {"", "\\ud83d\\ude00", "\\u00e9", "\\\\ud83d", "\\u12", "\\", "{\"a\": \"x"}) {
    EXPECT_FALSE(has_half_character(text)) << text;
  }
}

TEST(JsonStrict, DoublesAreReadExactly) {
  uint64_t random = 1;
  for (int i = 0; i < 20000; ++i) {
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    const double number = static_cast<double>(random >> 11) / 1e9 + 0.1;
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, number).ptr;
    ASSERT_EQ(parse_json({text, static_cast<size_t>(end - text)}, {}, "body").as_double(), number);
  }
}

TEST(JsonStrict, MessagesQuoteNothing) {
  try {
    parse_json("{\"secret\": oops", {}, "body");
    FAIL();
  } catch (const base::RequestError& error) {
    EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos);
    EXPECT_EQ(std::string(error.what()).find("oops"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::server
