#include "base/strict_json.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <string>

namespace moesaic::base {
namespace {

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

bool accepted(const std::string& text, const JsonLimits& limits = {}) {
  try {
    parse_strict_json(text, limits);
    return true;
  } catch (const JsonError&) {
    return false;
  }
}

TEST(StrictJson, AcceptsWhatRfc8259Allows) {
  for (const char* text :
       {"{}", "[]", " \t\r\n1 ", "\"\\u0000\"", "\"\\ud83d\\ude00\"", "\"\xF0\x9F\x98\x80\"", "-0",
        "1e308", "18446744073709551615", "[{\"a\":1},{\"a\":2}]", "{\"a\":{\"a\":1}}", "null"}) {
    EXPECT_TRUE(accepted(text)) << text;
  }
}

TEST(StrictJson, RefusesWhatTwoParsersCouldReadDifferently) {
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

TEST(StrictJson, DepthIsBoundedEverywhere) {
  EXPECT_TRUE(accepted(nested(64)));
  EXPECT_FALSE(accepted(nested(65)));
  EXPECT_FALSE(accepted("{\"unknown\":" + nested(64) + "}"));
  EXPECT_FALSE(accepted(std::string(1 << 20, '[')));
}

TEST(StrictJson, ValuesAreCountedButTokenIdsAreFree) {
  const JsonLimits limits{64, 10};
  EXPECT_TRUE(accepted("[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]", limits));
  EXPECT_FALSE(accepted("[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\"]", limits));
  EXPECT_TRUE(accepted("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", limits));
  EXPECT_FALSE(accepted("[{},{},{},{},{},{},{},{},{},{}]", limits));
}

TEST(StrictJson, BuildsWhatBoostBuilds) {
  const std::string text =
      R"({"a":[1,-2,3.5,18446744073709551615],"b":{"c":null,"d":true},"\u00e9\n":"x\ty"})";
  EXPECT_EQ(boost::json::serialize(parse_strict_json(text)),
            "{\"a\":[1,-2,3.5E0,18446744073709551615],\"b\":{\"c\":null,\"d\":true},"
            "\"\xc3\xa9\\n\":\"x\\ty\"}");
}

TEST(StrictJson, EveryPrefixIsRefused) {
  const std::string text = R"({"k\u00e9y":[1,2.5e3,{"x":null}],"s":"\ud83d\ude00","b":false})";
  ASSERT_TRUE(accepted(text));
  for (size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(accepted(text.substr(0, n))) << n;
}

struct Fault {
  std::string text;
  JsonFault fault;
  size_t offset;
};

TEST(StrictJson, SaysWhatIsWrongAndWhere) {
  const Fault faults[] = {
      {" \n", JsonFault::kEmpty, 0},
      {"\xEF\xBB\xBF{}", JsonFault::kByteOrder, 0},
      {"{} x", JsonFault::kTrailing, 3},
      {R"({"a":[1,)", JsonFault::kTruncated, 8},
      {nested(65), JsonFault::kTooDeep, 64},
      {R"({"a":{"bc":1,"bc":2}})", JsonFault::kDuplicate, 19},
      {"[1e999]", JsonFault::kNumber, 0},
      {R"(["\ude00"])", JsonFault::kSurrogate, 8},
      {"{\"a\":!}", JsonFault::kSyntax, 5},
  };
  for (const Fault& f : faults) {
    try {
      parse_strict_json(f.text);
      ADD_FAILURE() << f.text;
    } catch (const JsonError& error) {
      EXPECT_EQ(error.fault(), f.fault) << f.text;
      if (f.fault != JsonFault::kNumber) {
        EXPECT_EQ(error.offset(), f.offset) << f.text;
      }
      EXPECT_EQ(error.name(), f.fault == JsonFault::kDuplicate ? "bc" : "") << f.text;
    }
  }
}

}  // namespace
}  // namespace moesaic::base
