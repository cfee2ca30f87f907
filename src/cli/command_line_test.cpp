#include "cli/command_line.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/error.h"
#include "cli/commands.h"

namespace moesaic::cli {
namespace {

Command sample() {
  return {"serve", "MODEL", "Serve.", "", {{"json", "", "x"}, {"tokens", "N", "y"}},
          {"*"},   nullptr};
}

Invocation parse(std::vector<std::string> arguments) {
  const Command command = sample();
  return parse_command_line(command, arguments);
}

TEST(CommandLine, TakesVllmSpellings) {
  const Invocation got = parse({"models/demo", "--max_num_seqs=7", "--max-model-len", "4k",
                                "--no-enable-prefix-caching", "--served-model-name", "a", "b",
                                "--port", "1", "--port", "2", "--max-num-batched", "64", "--json"});
  EXPECT_EQ(got.arguments, std::vector<std::string>{"models/demo"});
  EXPECT_EQ(got.settings.get_int("max-num-seqs"), 7);
  EXPECT_EQ(got.settings.get_int("max-model-len"), 4000);
  EXPECT_FALSE(got.settings.get_bool("enable-prefix-caching"));
  EXPECT_EQ(got.settings.get_list("served-model-name"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(got.settings.get_int("port"), 2);
  EXPECT_EQ(got.settings.get_int("max-num-batched-tokens"), 64);
  EXPECT_TRUE(got.has("json"));
}

TEST(CommandLine, TakesBoolsWithAndWithoutValue) {
  EXPECT_TRUE(parse({"--skip-tokenizer-init"}).settings.get_bool("skip-tokenizer-init"));
  EXPECT_FALSE(parse({"--pin-threads=False"}).settings.get_bool("pin-threads"));
  EXPECT_FALSE(parse({"--pin-threads", "false"}).settings.get_bool("pin-threads"));
  EXPECT_EQ(parse({"--skip-tokenizer-init", "m"}).arguments, std::vector<std::string>{"m"});
}

TEST(CommandLine, AcceptsNegativeNumbersAndAliases) {
  EXPECT_EQ(parse({"--max-model-len", "-1"}).settings.get_int("max-model-len"), -1);
  EXPECT_EQ(parse({"-tp", "1"}).settings.get_int("tensor-parallel-size"), 1);
}

TEST(CommandLine, SpellingsOfOneSettingAreNoChoice) {
  EXPECT_EQ(parse({"--max-input", "5"}).settings.get_int("max-input-tokens"), 5);
  EXPECT_EQ(parse({"--max-num-seq", "5"}).settings.get_int("max-num-seqs"), 5);
}

TEST(CommandLine, TakesShortFlagsWithTheirValue) {
  EXPECT_EQ(parse({"-O3"}).settings.text("optimization-level"), "3");
  EXPECT_EQ(parse({"-O", "2"}).settings.text("optimization-level"), "2");
  EXPECT_EQ(parse({"-O=1"}).settings.text("optimization-level"), "1");
  EXPECT_EQ(parse({"-tp=2"}).settings.get_int("tensor-parallel-size"), 2);
  EXPECT_THROW(parse({"-Z9"}), base::UsageError);
}

TEST(CommandLine, TakesJsonInParts) {
  const Invocation got = parse(
      {"--speculative_config.method", "ngram", "--speculative-config.num_speculative_tokens=4",
       "--speculative-config.a.b+", "1", "--speculative-config.a.b+", "x"});
  EXPECT_EQ(got.settings.text("speculative-config"),
            R"({"method":"ngram","num_speculative_tokens":4,"a":{"b":[1,"x"]}})");
  EXPECT_THROW(parse({"--port.x", "1"}), base::UsageError);
  EXPECT_THROW(parse({"--speculative-config", "3", "--speculative-config.a", "1"}),
               base::UsageError);
}

TEST(CommandLine, RefusesBrokenJson) {
  EXPECT_THROW(parse({"--speculative-config", "{'method': 'ngram'}"}), base::UsageError);
  EXPECT_THROW(parse({"--hf-overrides", std::string(100000, '[')}), base::UsageError);
  EXPECT_NO_THROW(parse({"--compilation-config", R"({"mode": 3})"}));
  EXPECT_NO_THROW(parse({"--speculative-config="}));
}

TEST(CommandLine, ErrorsTeach) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--max-num-sex", "1"}, "--max-num-seqs"},
      {{"--prot", "1"}, "--port"},
      {{"--port"}, "needs a value"},
      {{"--max-num", "1"}, "could be"},
      {{"--port", "x"}, "--port"},
      {{"--no-pin-threads=1"}, "takes no value"},
      {{"--xyzzy"}, "serve --help"},
      {{"--" + std::string(1000000, 'x')}, "xxx..."},
  };
  for (const auto& [arguments, expected] : cases) {
    try {
      parse(arguments);
      FAIL() << arguments[0] << " was taken";
    } catch (const base::UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
}

TEST(CommandLine, WholeNumbersOfACommand) {
  Invocation invocation;
  const auto read = [&](const char* text) {
    invocation.options["seed"] = text;
    return invocation.integer("seed", 0, 0, INT64_MAX);
  };
  EXPECT_EQ(read("7"), 7);
  EXPECT_EQ(read("2k"), 2000);
  EXPECT_EQ(read("2K"), 2048);
  EXPECT_EQ(read("9223372036854775807"), INT64_MAX);
  for (const char* bad : {"", "auto", "-1", "1.5", "k", "2kk", "9223372036854775808", "1e3"}) {
    EXPECT_THROW(read(bad), base::UsageError) << bad;
  }
}

TEST(CommandLine, ReadsAConfigFileBelowTheCommandLine) {
  const std::string path = testing::TempDir() + "/settings.yaml";
  std::ofstream(path) << "port: 9000\nmax_num_seqs: 3\nserved-model-name: [a, b]\n";
  const Invocation got = parse({"--config", path, "--port", "1"});
  EXPECT_EQ(got.settings.get_int("port"), 1);
  EXPECT_EQ(got.settings.get_int("max-num-seqs"), 3);
  EXPECT_EQ(got.settings.get_list("served-model-name").size(), 2u);
  std::ofstream(path) << "prot: 1\n";
  try {
    (void)parse({"--config", path});
    ADD_FAILURE() << "a misspelt setting was taken";
  } catch (const base::UsageError& problem) {
    EXPECT_NE(std::string_view(problem.what()).find("did you mean port?"), std::string_view::npos);
  }
  std::ofstream(path) << "served-model-name: [[a]]\n";
  EXPECT_THROW(parse({"--config", path}), base::UsageError);
  std::ofstream(path) << "[a, b]: 1\n";
  EXPECT_THROW(parse({"--config", path}), base::UsageError);
  std::ofstream(path) << "a: [unclosed\n";
  EXPECT_THROW(parse({"--config", path}), base::UsageError);
  EXPECT_THROW(parse({"--config", path + ".absent"}), base::MissingFileError);
}

TEST(CommandLine, CompletesWhatCanStandThere) {
  using Words = std::vector<std::string>;
  const auto after = [](const Words& words) { return completions(find_command("serve"), words); };
  EXPECT_EQ(after({"m", "--served-m"}), Words{"--served-model-name"});
  EXPECT_EQ(after({"--cpu-isa", "a"}), (Words{"auto", "avx2", "avx512vnni", "avx512", "amx"}));
  EXPECT_EQ(after({"--backend=r"}), Words{"--backend=reference"});
  EXPECT_EQ(after({"--pin-threads=f"}), Words{"--pin-threads=false"});
  EXPECT_EQ(after({"--port", ""}), Words{});
  EXPECT_EQ(after({"models/"}), Words{});
  // A switch takes no word; a flag may follow.
  EXPECT_EQ(after({"--dry-run", "--root-p"}), Words{"--root-path"});
  for (const std::string& flag : after({"--"})) {
    EXPECT_TRUE(flag.starts_with("--"));
    EXPECT_EQ(flag.find("speculative"), std::string::npos) << "comes later: " << flag;
  }
  EXPECT_EQ(completions(find_command("docs"), Words{"f"}), Words{"flags"});
}

TEST(CommandLine, NamesTheNearestCommand) {
  EXPECT_EQ(find_command("serve").name, "serve");
  for (const auto& [typed, says] : {std::pair("srve", "did you mean serve?"),
                                    std::pair("completions", "did you mean completion?"),
                                    std::pair("models/demo", "unknown command")}) {
    try {
      find_command(typed);
      ADD_FAILURE() << typed;
    } catch (const base::UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
}

TEST(CommandLine, HelpFitsEightyColumns) {
  for (const Command& command : commands()) {
    std::stringstream text(help_text(command));
    for (std::string line; std::getline(text, line);) {
      EXPECT_LE(line.size(), 80u) << command.name << ": " << line;
    }
  }
}

}  // namespace
}  // namespace moesaic::cli
