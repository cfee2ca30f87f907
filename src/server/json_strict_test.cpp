#include "server/json_strict.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace moesaic::server {
namespace {

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
