#include "deploy/yaml_writer.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include "deploy/yaml_reader.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

/// What comes back from two readers: yaml-cpp's own and ours.
void expect_same(const std::string& text) {
  const std::string yaml = to_yaml(json::object{{"key", text}, {"list", json::array{text, "end"}}});
  const YAML::Node node = YAML::Load(yaml);
  EXPECT_EQ(node["key"].as<std::string>(), text) << yaml;
  EXPECT_EQ(node["list"][0].as<std::string>(), text) << yaml;
  const auto documents = read_yaml(yaml, "test");
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].value.at("key"), json::value(text)) << yaml;
}

TEST(YamlWriter, StringsThatYamlWouldMisreadAreQuoted) {
  for (const char* text :
       {"yes",  "No", "ON",     "off", "y",   "N",    "true",       "False", "null", "~",
        "",     "1",  "0x1f",   "1e3", "1.5", ".inf", "-1",         "+1",    "1:30", "2024-01-01",
        "0o17", "=",  "<<",     "-",   "- a", "? a",  "a: b",       "a #b",  "#a",   "&a",
        "*a",   "!a", "|",      ">",   "%a",  "@a",   "`a",         "{a}",   "[a]",  "a,b",
        " a",   "a ", "--flag", "'",   "\"",  "a:",   "key: [1, 2]"}) {
    EXPECT_EQ(yaml_scalar(text)[0], '"') << text;
    expect_same(text);
  }
}

TEST(YamlWriter, PlainWordsStayPlain) {
  for (const char* text : {"serve", "mistralai/Mixtral-8x7B-v0.1", "nvidia.com/gpu", "/health",
                           "vllm:num_requests_waiting", "vllm/vllm-openai:v0.32.0", "yesterday"}) {
    EXPECT_EQ(yaml_scalar(text), text);
    expect_same(text);
  }
}

TEST(YamlWriter, EveryKindOfTextComesBack) {
  for (const std::string& text : std::vector<std::string>{
           "two\nlines", "ends\n", "ends twice\n\n", "\nbegins", " indented\nsecond", "a \nb",
           "tab\there", "cr\rhere", "quote\"back\\slash", "\x01\x1f\x7f", "umlaut ä", "emoji 😀",
           "\xe2\x80\xa8", "\xc2\x85", "a\n  b\n\n    c\n", "{\n  \"a\": [1]\n}\n"}) {
    const std::string yaml = to_yaml(json::object{{"key", text}});
    EXPECT_EQ(YAML::Load(yaml)["key"].as<std::string>(), text) << yaml;
  }
}

TEST(YamlWriter, NestedValues) {
  const json::value value = {
      {"empty", json::object{}},
      {"none", json::array{}},
      {"list", json::array{json::object{{"a", 1}, {"b", json::array{1, 2}}}, json::array{3}}},
      {"bool", true},
      {"null", nullptr}};
  const auto documents = read_yaml(to_yaml(value), "test");
  ASSERT_EQ(documents.size(), 1U);
  EXPECT_EQ(documents[0].value, value);
}

TEST(YamlWriter, PrettyJsonIsTheSameJson) {
  const json::value value = {{"a", json::array{1, json::object{{"b", "c\"\n"}}}}, {"d", {}}};
  EXPECT_EQ(json::parse(pretty_json(value)), value);
}

}  // namespace
}  // namespace moesaic::deploy
