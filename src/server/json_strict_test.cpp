#include "server/json_strict.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace moesaic::server {
namespace {

using Mode = base::JsonNumbers;

std::string refusal(const std::string& text, const base::JsonLimits& limits = kBodyLimits) {
  try {
    parse_json(text, limits, "body");
    return "";
  } catch (const base::RequestError& error) {
    EXPECT_EQ(error.status(), 400);
    EXPECT_EQ(error.param(), "body");
    return error.what();
  }
}

TEST(JsonStrict, SaysWhichSettingBoundsIt) {
  EXPECT_EQ(refusal("[[1]]", {2, 10}), "");
  EXPECT_NE(refusal("[[[1]]]", {2, 10}).find("--max-json-depth"), std::string::npos);
  EXPECT_NE(refusal("[[],[],[]]", {2, 3}).find("--max-json-nodes"), std::string::npos);
}

TEST(JsonStrict, NumbersKeepTheirDigits) {
  const auto read = [](const std::string& text, Mode numbers) {
    return parse_json(text, kBodyLimits, "body", {}, numbers);
  };
  // Whole numbers of 64 bits and what a double holds are values.
  EXPECT_EQ(read("-9223372036854775808", Mode::kWholeAsWritten).as_int64(), INT64_MIN);
  EXPECT_EQ(read("18446744073709551615", Mode::kWholeAsWritten).as_uint64(), UINT64_MAX);
  EXPECT_FALSE(written_number(read("2.50", Mode::kWholeAsWritten)));
  for (const char* text : {"18446744073709551616", "-9223372036854775809",
                           "123456789012345678901234567890"
                           "12345678901234567890123456789012345678901234567890"}) {
    for (const Mode numbers : {Mode::kWholeAsWritten, Mode::kAsWritten}) {
      EXPECT_EQ(written_number(read(text, numbers)), text);
    }
  }
  for (const char* text : {"2.50", "-0", "-0.0", "1e5", "1E+05", "0.10"}) {
    EXPECT_EQ(written_number(read(text, Mode::kAsWritten)), text);
  }
  EXPECT_EQ(read("-12", Mode::kAsWritten).as_int64(), -12);
  EXPECT_FALSE(written_number(read(R"({"a": 1})", Mode::kWholeAsWritten)));
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
    ASSERT_EQ(parse_json({text, static_cast<size_t>(end - text)}, kBodyLimits, "body").as_double(),
              number);
  }
}

TEST(JsonStrict, MessagesQuoteNothing) {
  for (const char* text : {"{\"secret\": oops", "{\"secret\":1,\"secret\":2}", "{\"secret\": oops}",
                           "\"secret\" oops"}) {
    const std::string said = refusal(text);
    EXPECT_FALSE(said.empty()) << text;
    EXPECT_EQ(said.find("secret"), std::string::npos) << said;
    EXPECT_EQ(said.find("oops"), std::string::npos) << said;
  }
}

}  // namespace
}  // namespace moesaic::server
