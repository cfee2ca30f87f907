#include "base/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"

namespace moesaic::base {
namespace {

TEST(SettingsTable, NamesFlagsAndEnvironmentAreUnique) {
  std::set<std::string, std::less<>> flags;
  std::set<std::string, std::less<>> env;
  auto each = [](std::string_view text, auto&& visit) {
    std::stringstream stream{std::string(text)};
    for (std::string item; std::getline(stream, item, ',');) visit(item);
  };
  for (const SettingRow& row : setting_rows()) {
    EXPECT_TRUE(flags.insert("--" + std::string(row.name)).second) << row.name;
    each(row.aliases,
         [&](const std::string& item) { EXPECT_TRUE(flags.insert(item).second) << item; });
    each(row.env, [&](const std::string& item) { EXPECT_TRUE(env.insert(item).second) << item; });
    EXPECT_FALSE(row.help.empty()) << row.name;
  }
}

TEST(SettingsTable, EveryDefaultIsValid) {
  for (const SettingRow& row : setting_rows()) {
    if (row.fallback.empty()) continue;
    Settings settings;
    EXPECT_NO_THROW(settings.set(row.name, row.fallback, "default")) << row.name;
  }
}

TEST(Settings, TakesHumanReadableIntegers) {
  Settings settings;
  const std::pair<const char*, int64_t> cases[] = {
      {"4096", 4096}, {"1k", 1000}, {"1K", 1024}, {"25.6k", 25600}, {"auto", -1}};
  for (const auto& [text, value] : cases) {
    settings.set("max-model-len", text, "--max-model-len");
    EXPECT_EQ(settings.get_int("max-model-len"), value) << text;
  }
}

TEST(Settings, RefusesWithTheFlagsNameAndWhatIsAllowed) {
  const std::array<std::array<const char*, 3>, 8> cases = {{
      {"port", "http", "whole number"},
      {"port", "70000", "0..65535"},
      {"port", "12x", "whole number"},
      {"port", "", "whole number"},
      {"gpu-memory-utilization", "1.5", "0.01..1"},
      {"gpu-memory-utilization", "nan", "number"},
      {"dtype", "int3", "bfloat16"},
      {"enable-prefix-caching", "maybe", "true or false"},
  }};
  for (const auto& [name, text, expected] : cases) {
    Settings settings;
    try {
      settings.set(name, text, std::string("--") + name);
      FAIL() << name << "=" << text << " was taken";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
}

TEST(Settings, CommandLineWinsOverEnvironment) {
  Settings settings;
  settings.set("port", "9000", "--port");
  settings.apply_environment([](const char* name) -> const char* {
    const std::string_view asked = name;
    if (asked == "PORT") return "80";
    if (asked == "HOST") return "0.0.0.0";
    if (asked == "MAX_BATCH_SIZE") return "tcp://10.0.0.1:80";
    return nullptr;
  });
  EXPECT_EQ(settings.get_int("port"), 9000);
  EXPECT_EQ(settings.get_string("host"), "0.0.0.0");
  EXPECT_EQ(settings.origin("host"), "HOST");
  EXPECT_FALSE(settings.is_set("max-num-seqs"));
}

TEST(Settings, DocsAreFresh) {
  std::ifstream file(MOESAIC_SOURCE_DIR "/docs/flags.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), settings_markdown())
      << "docs/flags.md is stale; run: build/release/moesaic docs flags > docs/flags.md";
}

}  // namespace
}  // namespace moesaic::base
