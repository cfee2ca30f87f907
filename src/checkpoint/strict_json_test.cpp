#include "checkpoint/strict_json.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_testing.h"

namespace moesaic::checkpoint {
namespace {

std::string nested(int depth) {
  std::string text = "{\"a\":";
  for (int i = 1; i < depth; ++i) text += '[';
  for (int i = 1; i < depth; ++i) text += ']';
  return text + "}";
}

TEST(StrictJson, SameKeyInTwoObjectsIsFine) {
  EXPECT_EQ(parse_strict_object(R"({"a":{"k":1},"b":{"k":1,"a":2}})", "f").size(), 2U);
}

struct BadText {
  const char* what;
  std::string text;
  const char* message;
};

TEST(StrictJson, RefusesWhatIsNotStrict) {
  const std::vector<BadText> cases = {
      {"empty", "", "truncated"},
      {"truncated", R"({"a": 1)", "truncated"},
      {"array at top", "[1]", "expected a JSON object"},
      {"string at top", "\"x\"", "expected a JSON object"},
      {"duplicate", R"({"a":1,"b":2,"a":3})", "'a' appears twice"},
      {"duplicate in depth", R"({"z":[{"a":1,"a":1}]})", "'a' appears twice"},
      {"duplicate by escape", R"({"a":1,"\u0061":2})", "'a' appears twice"},
      {"text after", "{} x", "after the JSON value"},
      {"second document", "{}{}", "after the JSON value"},
      {"comment", "{} // x", "after the JSON value"},
      {"comment inside", "{/* */}", "not valid JSON"},
      {"trailing comma", R"({"a":1,})", "not valid JSON"},
      {"byte order mark", "\xef\xbb\xbf{}", "byte order mark"},
      {"lone continuation byte", "{\"a\":\"\x80\"}", "not valid JSON"},
      {"lone escape surrogate", R"({"a":"\ud83d"})", "not valid JSON"},
      {"NaN", R"({"a":NaN})", "not valid JSON"},
      {"too large", R"({"a":1e999})", ""},
      {"too deep", nested(65), "deeper than 64"},
      {"very deep", std::string(5'000'000, '['), "deeper than 64"},
  };
  for (const BadText& bad : cases) {
    SCOPED_TRACE(bad.what);
    try {
      parse_strict_object(bad.text, "some.json");
      ADD_FAILURE() << "was accepted";
    } catch (const base::ModelFileError& error) {
      EXPECT_EQ(error.exit_code(), base::ExitCode::kBadModel);
      EXPECT_EQ(error.file(), "some.json");
      EXPECT_TRUE(error.offset().has_value() || *bad.message == '\0');
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
    }
  }
}

TEST(StrictJson, OffsetsCountFromTheFile) {
  try {
    parse_strict_object("{\"a\":!}", "f", 100);
    FAIL();
  } catch (const base::ModelFileError& error) {
    EXPECT_EQ(error.offset(), 105U);
  }
}

TEST(StrictJson, ReadsFiles) {
  testing::TempFolder folder;
  const auto read = [&](const char* name, size_t limit = 100) {
    return read_json_file(folder.path(), name, limit);
  };
  testing::write_file(folder / "a.json", R"({"x": 1})");
  EXPECT_EQ(read("a.json", 8)->at("x").as_int64(), 1);
  EXPECT_THROW(read("a.json", 7), base::ModelFileError);
  EXPECT_EQ(read("none.json"), std::nullopt);
  EXPECT_THROW(read("."), base::MissingFileError);
  testing::write_file(folder / "empty.json", "");
  EXPECT_THROW(read("empty.json"), base::ModelFileError);
  testing::write_file(folder / "lfs.json", "version https://git-lfs.github.com/spec/v1\noid x\n");
  try {
    read("lfs.json");
    FAIL();
  } catch (const base::ModelFileError& error) {
    EXPECT_NE(std::string(error.what()).find("git lfs pull"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::checkpoint
