#include "base/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
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

std::vector<std::string> golden_lines(const std::string& name) {
  std::ifstream file(MOESAIC_SOURCE_DIR "/tests/golden/flags/" + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  EXPECT_GT(lines.size(), 20u) << name << " is missing or cut";
  return lines;
}

/// Every spelling of the table, and whether it takes no value.
std::map<std::string, bool> spellings() {
  std::map<std::string, bool> all;
  for (const SettingRow& row : setting_rows()) {
    const bool is_switch = row.type == SettingType::kBool;
    all["--" + std::string(row.name)] = is_switch;
    if (is_switch) all["--no-" + std::string(row.name)] = true;
    std::stringstream aliases{std::string(row.aliases)};
    for (std::string alias; std::getline(aliases, alias, ',');) all[alias] = is_switch;
  }
  return all;
}

TEST(SettingsTable, HasEveryFlagOfVllm) {
  const auto known = spellings();
  const auto flags = golden_lines("vllm-0.32-flags.txt");
  EXPECT_GT(flags.size(), 400u);
  for (const std::string& flag : flags) EXPECT_TRUE(known.contains(flag)) << flag;
  for (const std::string& flag : golden_lines("vllm-older-flags.txt")) {
    EXPECT_TRUE(known.contains(flag)) << flag;
  }
  // A flag with a --no- form is a switch there, so it must be one here.
  for (const std::string& flag : flags) {
    if (!flag.starts_with("--no-")) continue;
    const auto found = known.find("--" + flag.substr(5));
    EXPECT_TRUE(found != known.end() && found->second) << flag;
  }
}

TEST(SettingsTable, HasEveryVariableOfTgi) {
  std::set<std::string, std::less<>> known;
  for (const SettingRow& row : setting_rows()) {
    std::stringstream names{std::string(row.env)};
    for (std::string name; std::getline(names, name, ',');) known.insert(name);
  }
  for (const std::string& name : golden_lines("tgi-environment.txt")) {
    EXPECT_TRUE(known.contains(name)) << name;
  }
}

TEST(SettingsTable, SentencesFitAReport) {
  for (const SettingRow& row : setting_rows()) {
    for (std::string_view sentence : {row.help, row.later}) {
      if (sentence.empty()) continue;
      EXPECT_TRUE(sentence.ends_with('.')) << row.name;
      EXPECT_EQ(sentence.find('\n'), std::string_view::npos) << row.name;
    }
    EXPECT_EQ(row.works.empty(), row.later.empty()) << row.name;
    EXPECT_TRUE(row.works.empty() || row.state == SettingState::kActive) << row.name;
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

TEST(Settings, BoundsWithUnitsHold) {
  Settings settings;
  settings.set("max-header-bytes", "1M", "--max-header-bytes");
  EXPECT_THROW(settings.set("max-header-bytes", "1048577", "--max-header-bytes"), UsageError);
  EXPECT_THROW(settings.set("max-num-seqs", "9223372036854775808", "--max-num-seqs"), UsageError);
  EXPECT_THROW(settings.set("max-num-seqs", "1e300", "--max-num-seqs"), UsageError);
  EXPECT_THROW(settings.set("max-model-len", "99999999t", "--max-model-len"), UsageError);
  settings.set("max-lora-rank", "320", "--max-lora-rank");
  EXPECT_THROW(settings.set("max-lora-rank", "17", "--max-lora-rank"), UsageError);
}

TEST(Settings, AWrongChoiceOfManyNamesTheNearest) {
  Settings settings;
  try {
    settings.set("kv-cache-dtype", "fp8_e4m2", "--kv-cache-dtype");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("nearest is fp8_e4m3"), std::string::npos)
        << error.what();
  }
}

TEST(Settings, NothingUnsetsWhatMayBeUnset) {
  for (const char* nothing : {"", "None"}) {
    Settings settings;
    settings.set("quantization", nothing, "--quantization");
    EXPECT_EQ(settings.get_string("quantization"), "");
    EXPECT_TRUE(settings.is_set("quantization")) << "the environment must not set it again";
    EXPECT_EQ(report_setting(settings, "quantization").fate, SettingFate::kKept);
    settings.set("kv-cache-memory-bytes", nothing, "--kv-cache-memory-bytes");
    EXPECT_EQ(settings.get_int("kv-cache-memory-bytes"), 0);
    EXPECT_THROW(settings.set("port", nothing, "--port"), UsageError);
    EXPECT_THROW(settings.set("dtype", nothing, "--dtype"), UsageError);
  }
}

TEST(Settings, ReportsWhatBecomesOfASetting) {
  struct Case {
    const char* name;
    const char* text;
    const char* origin;
    SettingFate fate;
    const char* line;
  };
  const Case cases[] = {
      {"port", "80", "--port", SettingFate::kKept, "--port 80"},
      {"max-num-seqs", "7", "MAX_BATCH_SIZE", SettingFate::kKept, "MAX_BATCH_SIZE=7"},
      {"tensor-parallel-size", "1", "-tp", SettingFate::kKept, "-tp 1"},
      {"tensor-parallel-size", "2", "NUM_SHARD", SettingFate::kKept, "NUM_SHARD=2"},
      {"data-parallel-size", "2", "-dp", SettingFate::kLater,
       "-dp 2: Data parallelism comes later."},
      {"enable-lora", "true", "--enable-lora", SettingFate::kLater,
       "--enable-lora: LoRA adapters come later."},
      {"enable-lora", "false", "--no-enable-lora", SettingFate::kKept, "--no-enable-lora"},
      {"trust-remote-code", "true", "--trust-remote-code", SettingFate::kNoEffect,
       "--trust-remote-code: Checkpoints never execute code here, so there is nothing to trust."},
      {"kv-cache-dtype", "fp8", "--kv-cache-dtype", SettingFate::kLater,
       "--kv-cache-dtype fp8: A KV cache of 8 or 4 bits comes later."},
      {"kv-cache-dtype", "auto", "--kv-cache-dtype", SettingFate::kKept, "--kv-cache-dtype auto"},
      {"num-speculative-tokens", "0", "SPECULATE", SettingFate::kKept, "SPECULATE=0"},
      {"eplb-config", "{}", "--eplb-config", SettingFate::kNoEffect, nullptr},
      {"kv-transfer-config", "{}", "--kv-transfer-config", SettingFate::kKept, nullptr},
      {"api-key", "s3cret", "--api-key", SettingFate::kKept, "--api-key (hidden)"},
      {"hf-token", "s3cret", "HF_TOKEN", SettingFate::kNoEffect,
       "HF_TOKEN=(hidden): Nothing is downloaded yet, so no token is needed."},
  };
  for (const Case& item : cases) {
    Settings settings;
    settings.set(item.name, item.text, item.origin);
    const SettingReport report = report_setting(settings, item.name);
    EXPECT_EQ(report.fate, item.fate) << report.line;
    EXPECT_TRUE(item.line == nullptr || report.line == item.line) << report.line;
  }
}

TEST(Settings, WhatWorksAloneMayHaveToWaitBesideOthers) {
  Settings settings;
  settings.set("tensor-parallel-size", "2", "-tp");
  settings.set("backend", "cuda", "--device");
  const SettingReport report = report_setting(settings, "tensor-parallel-size");
  EXPECT_EQ(report.fate, SettingFate::kLater);
  EXPECT_EQ(report.line, "-tp 2: Ranks on several CUDA devices come later.");
  EXPECT_EQ(report_setting(settings, "backend").fate, SettingFate::kKept);
  settings.set("tensor-parallel-size", "1", "-tp");
  EXPECT_EQ(report_setting(settings, "tensor-parallel-size").fate, SettingFate::kKept);
}

TEST(Settings, ReportsCutAndCleanLongValues) {
  Settings settings;
  settings.set("served-model-name", "\x1b[31m" + std::string(4000, 'x'), "--served-model-name");
  const std::string line = report_setting(settings, "served-model-name").line;
  EXPECT_LT(line.size(), 80u);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
}

TEST(Settings, NamesVariablesThatNothingReads) {
  const std::vector<std::string> environment = {"VLLM_USE_V1=1",
                                                "VLLM_PORT=tcp://10.0.0.1:8000",
                                                "VLLM_SERVICE_HOST=10.0.0.1",
                                                "HF_TOKEN=x",
                                                "NCCL_DEBUG=INFO",
                                                "PATH=/bin",
                                                "VLLM_PORT_80_TCP=t",
                                                "VLLM_API_KEY=x",
                                                "VLLM_SERVICE_PORT_HTTP=80",
                                                "NCCL_IB_HCA=",
                                                "CUDA_VISIBLE_DEVICES=0"};
  EXPECT_EQ(unread_environment(environment),
            (std::vector<std::string>{"NCCL_DEBUG", "VLLM_USE_V1"}));
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
