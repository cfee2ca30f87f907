#include "deploy/yaml_reader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

json::value one(const std::string& text) {
  const auto documents = read_yaml(text, "f.yaml");
  EXPECT_EQ(documents.size(), 1U);
  return documents.at(0).value;
}

/// The message of the error that `text` ends in.
std::string refused(const std::string& text) {
  try {
    read_yaml(text, "f.yaml");
  } catch (const base::ModelFileError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("f.yaml: line ")) << message;
    return message;
  }
  return "accepted";
}

TEST(YamlReader, ScalarsAsKubernetesSeesThem) {
  const json::value value =
      one("a: 1\nb: \"1\"\nc: true\nd: 0.90\ne: 007\nf:\ng: ~\nh: 'true'\ni: 16Gi\nj: 1_0\n"
          "k: 99999999999999999999\n");
  EXPECT_EQ(value.at("a"), json::value(1));
  EXPECT_EQ(value.at("b"), json::value("1"));
  EXPECT_EQ(value.at("c"), json::value(true));
  EXPECT_EQ(value.at("d"), json::value("0.90"));
  EXPECT_EQ(value.at("e"), json::value("007"));
  EXPECT_TRUE(value.at("f").is_null());
  EXPECT_TRUE(value.at("g").is_null());
  EXPECT_EQ(value.at("h"), json::value("true"));
  EXPECT_EQ(value.at("i"), json::value("16Gi"));
  EXPECT_EQ(value.at("k"), json::value("99999999999999999999"));
}

TEST(YamlReader, DocumentsAndTheirLines) {
  const auto documents = read_yaml("# head\na: 1\n---\n---\nb: 2\n...\n", "f.yaml");
  ASSERT_EQ(documents.size(), 2U);
  EXPECT_EQ(documents[1].value.at("b"), json::value(2));
  EXPECT_GE(documents[1].line, 4);
}

TEST(YamlReader, AnchorsAliasesAndMerges) {
  const json::value value =
      one("x: &x {a: 1, b: 2}\ny: *x\nz:\n  <<: *x\n  b: 3\nw:\n- <<: [*x]\n  c: 4\n");
  EXPECT_EQ(value.at("y"), value.at("x"));
  EXPECT_EQ(value.at("z"), json::value({{"a", 1}, {"b", 3}}));
  EXPECT_EQ(value.at("w").at(0), json::value({{"a", 1}, {"b", 2}, {"c", 4}}));
}

TEST(YamlReader, BillionLaughsIsRefusedBeforeItIsExpanded) {
  std::string text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n";
  for (int i = 1; i < 10; ++i) {
    text += fmt::format(
        "a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, "
        "*a{1}]\n",
        i, i - 1);
  }
  EXPECT_NE(refused(text).find("values, aliases expanded"), std::string::npos);
}

TEST(YamlReader, LongTextByAliasIsRefused) {
  std::string text = "a: &a \"" + std::string(100'000, 'x') + "\"\nb:\n";
  for (int i = 0; i < 200; ++i) text += "- *a\n";
  EXPECT_NE(refused(text).find("bytes of text"), std::string::npos);
}

TEST(YamlReader, DepthByNestingAndByAlias) {
  EXPECT_NE(refused(std::string(5000, '[') + std::string(5000, ']')).find("nested"),
            std::string::npos);
  std::string text = "a0: &a0 [1]\n";
  for (int i = 1; i < 200; ++i) text += fmt::format("a{0}: &a{0} [*a{1}]\n", i, i - 1);
  EXPECT_NE(refused(text).find("nested"), std::string::npos);
  std::string anchors = "a: ";
  for (int i = 0; i < 60; ++i) anchors += fmt::format("&b{} [", i);
  anchors += std::string(60, ']');
  EXPECT_EQ(read_yaml(anchors, "f.yaml").size(), 1U);
}

TEST(YamlReader, AnchorsThatHoldMuchAreRefused) {
  // Sixty anchors around the same fifty thousand values would keep three million.
  std::string text = "a: ";
  for (int i = 0; i < 60; ++i) text += fmt::format("&b{} [", i);
  for (int i = 0; i < 50'000; ++i) text += "1,";
  text += "1" + std::string(60, ']');
  EXPECT_NE(refused(text).find("anchors hold"), std::string::npos);
}

TEST(YamlReader, WhatIsNoTextIsRefusedWithItsLine) {
  EXPECT_NE(refused(std::string("a: 1\n\0b", 7)).find("line 2"), std::string::npos);
  EXPECT_NE(refused("a: \xff").find("UTF-8"), std::string::npos);
  EXPECT_NE(refused("a: 1\nb: \xed\xa0\x80").find("line 2"), std::string::npos);
  EXPECT_NE(refused("\x7f"
                    "ELF")
                .find("line 1"),
            std::string::npos);
}

TEST(YamlReader, BrokenYamlNamesTheLine) {
  EXPECT_NE(refused("a: 1\nb: [1, 2\nc: 3\n").find("line "), std::string::npos);
  EXPECT_NE(refused("a: \"open").find("line 1"), std::string::npos);
  EXPECT_NE(refused("a: 1\na: 2\n").find("line 2: the key 'a' stands there twice"),
            std::string::npos);
  EXPECT_NE(refused("? [a]\n: b\n").find("a key must be a word"), std::string::npos);
  EXPECT_NE(refused("a: *nobody\n").find("line 1"), std::string::npos);
  EXPECT_NE(refused("a: &a [*a]\n").find("line 1"), std::string::npos);
  EXPECT_NE(refused("a: 1\n\tb: 2\n").find("line"), std::string::npos);
}

TEST(YamlReader, EmptyFilesHaveNoDocuments) {
  EXPECT_TRUE(read_yaml("", "f.yaml").empty());
  EXPECT_TRUE(read_yaml("# nothing\n---\n---\n", "f.yaml").empty());
}

TEST(YamlReader, EveryBeginningOfAManifestEndsCleanly) {
  const std::string text =
      "a: &x {b: [1, 'two', \"three\\n\"]}\nc: |\n  block\n  text\nd: >-\n  folded\n---\ne: *x\n";
  for (size_t length = 0; length <= text.size(); ++length) {
    try {
      (void)read_yaml(text.substr(0, length), "f.yaml");
    } catch (const base::ModelFileError& error) {
      EXPECT_NE(std::string(error.what()).find("line "), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace moesaic::deploy
