#include "deploy/shell_words.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "deploy/server_start.h"

namespace moesaic::deploy {
namespace {

using Words = std::vector<std::string>;

std::optional<std::string> known(const std::string& name) {
  if (name == "MODEL") return "org/m";
  return std::nullopt;
}

std::vector<Words> split(std::string_view script) { return shell_commands(script, known); }

TEST(ShellWords, QuotesEscapesAndContinuedLines) {
  EXPECT_EQ(split(R"(a 'b c' "d \"e\" $MODEL" f\ g \
  h)"),
            (std::vector<Words>{{"a", "b c", "d \"e\" org/m", "f g", "h"}}));
  EXPECT_EQ(split("a '' \"\""), (std::vector<Words>{{"a", "", ""}}));
  EXPECT_EQ(split("a 'open"), (std::vector<Words>{{"a", "open"}}));
  EXPECT_EQ(split("a \"open"), (std::vector<Words>{{"a", "open"}}));
  EXPECT_EQ(split("a\\"), (std::vector<Words>{{"a"}}));
}

TEST(ShellWords, CommandsCommentsAndRedirections) {
  EXPECT_EQ(split("a && b; c | d & # e\nf # g"),
            (std::vector<Words>{{"a"}, {"b"}, {"c"}, {"d"}, {"f"}}));
  EXPECT_EQ(split("a b#c 2>&1 > log.txt d"), (std::vector<Words>{{"a", "b#c", "d"}}));
  EXPECT_EQ(split("a x2> log"), (std::vector<Words>{{"a", "x2"}}));
}

TEST(ShellWords, Variables) {
  EXPECT_EQ(split("$MODEL ${MODEL} $NO ${NO:-x} ${NO-y} ${MODEL:-x} $ $(date) a$MODEL.b"),
            (std::vector<Words>{
                {"org/m", "org/m", "$(NO)", "x", "y", "org/m", "$", "$(date)", "aorg/m.b"}}));
  EXPECT_EQ(split("'$MODEL' \"${MODEL\""), (std::vector<Words>{{"$MODEL", "org/m"}}));
  EXPECT_EQ(expand_references("--m=$(MODEL) $(NO) $$(MODEL) $(", known),
            "--m=org/m $(NO) $(MODEL) $(");
}

TEST(ShellWords, UnquotedValuesAreParted) {
  const auto values = [](const std::string& name) -> std::optional<std::string> {
    if (name == "TWO") return "a  b";
    if (name == "NONE") return "";
    return std::nullopt;
  };
  const auto split_with = [&](std::string_view script) { return shell_commands(script, values); };
  EXPECT_EQ(split_with("x $TWO y"), (std::vector<Words>{{"x", "a", "b", "y"}}));
  EXPECT_EQ(split_with("x $(TWO)y \"$TWO\""), (std::vector<Words>{{"x", "a", "by", "a  b"}}));
  EXPECT_EQ(split_with("x $NONE \"$NONE\""), (std::vector<Words>{{"x", ""}}));
}

TEST(ShellWords, AssignmentsAreKnownAfterwards) {
  EXPECT_EQ(
      split("A=1 B=$MODEL; export C='x y'; v $A$B $C"),
      (std::vector<Words>{{"A=1", "B=org/m"}, {"export", "C=x y"}, {"v", "1org/m", "x", "y"}}));
  // Before a command they are for that command alone.
  EXPECT_EQ(split("A=1 v; w $A"), (std::vector<Words>{{"A=1", "v"}, {"w", "$(A)"}}));
}

TEST(ShellWords, ExpansionIsBounded) {
  std::string script = "A0=0123456789";
  for (int i = 1; i < 30; ++i) {
    script += ";A" + std::to_string(i) + "=";
    for (int k = 0; k < 10; ++k) script += "$A" + std::to_string(i - 1);
  }
  EXPECT_THROW(split(script), base::UsageError);
  const auto large = [](const std::string&) { return std::string(kMaxExpandedText / 2 + 1, 'x'); };
  EXPECT_NO_THROW(expand_references("$(A)", large));
  EXPECT_THROW(expand_references("$(A)$(A)", large), base::UsageError);
}

TEST(ShellWords, AnyBytesEnd) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    static constexpr std::string_view kAlphabet = "ab \\'\"$(){}|&;<>#\n=-";
    std::string script;
    unsigned state = seed * 2654435761U + 1;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525U + 1013904223U;
      script += kAlphabet[(state >> 16) % kAlphabet.size()];
    }
    (void)split(script);
  }
}

std::optional<ServerStart> start(const Words& command, const Words& args,
                                 const std::string& image = "company/own:1") {
  static const std::map<std::string, std::string> kEnvironment = {{"MODEL", "org/m"}};
  auto found = find_server(command, args, image, kEnvironment, false);
  return found ? found : find_server(command, args, image, kEnvironment, true);
}

TEST(ServerStart, Commands) {
  const Words flags = {"--model", "org/m"};
  EXPECT_EQ(start({"python3", "-m", "vllm.entrypoints.openai.api_server"}, flags)->arguments,
            flags);
  EXPECT_EQ(start({"/usr/bin/python3.12", "-u", "-m", "vllm.entrypoints.openai.api_server"},
                  {"--model", "$(MODEL)"})
                ->arguments,
            flags);
  EXPECT_EQ(start({"vllm"}, {"serve", "org/m"})->arguments, Words{"org/m"});
  EXPECT_EQ(start({}, {"vllm", "serve", "org/m"})->arguments, Words{"org/m"});
  EXPECT_EQ(start({"moesaic", "serve"}, {"org/m"})->engine, Engine::kMoesaic);
  EXPECT_EQ(start({"text-generation-launcher"}, {"--model-id", "org/m"})->engine, Engine::kTgi);
  EXPECT_EQ(
      start({"/tgi-entrypoint.sh"}, {"--model-id", "x"}, "text-generation-inference:3")->arguments,
      (Words{"--model-id", "x"}));
  EXPECT_FALSE(start({"nginx"}, {}));
  EXPECT_FALSE(start({"sleep"}, {"infinity"}, "vllm/vllm-openai:v1"));
  EXPECT_FALSE(start({}, {}));
  EXPECT_FALSE(start({"vllm"}, {"bench"}));
  EXPECT_EQ(start({"python", "-m", "vllm_neuron.entrypoints.openai.api_server"}, flags)->arguments,
            flags);
  EXPECT_EQ(start({"python3", "-m", "vllm.entrypoints.cli.main", "serve"}, {"m"})->arguments,
            Words{"m"});
  EXPECT_FALSE(start({"python3", "-m", "vllm.entrypoints.openai.run_batch"}, flags));
}

TEST(ServerStart, Launchers) {
  for (const Words& words :
       std::vector<Words>{{"tini", "-s", "--", "vllm", "serve", "m"},
                          {"numactl", "--cpunodebind", "0", "uv", "run", "vllm", "serve", "m"},
                          {"/opt/nvidia/nvidia_entrypoint.sh", "vllm", "serve", "m"},
                          {"timeout", "60", "bash", "-c", "exec vllm serve m"}}) {
    const auto found = start(words, {}, "");
    ASSERT_TRUE(found) << words[0];
    EXPECT_EQ(found->arguments, (Words{"m"}));
  }
  EXPECT_FALSE(start({"echo", "vllm", "serve", "m"}, {}, ""));
}

TEST(ServerStart, Images) {
  EXPECT_EQ(start({}, {"--model", "m"}, "vllm/vllm-openai:v1")->engine, Engine::kVllm);
  EXPECT_EQ(start({}, {}, "ghcr.io/huggingface/text-generation-inference:3")->engine, Engine::kTgi);
  EXPECT_EQ(start({}, {"serve", "m"}, "registry/moesaic:1")->arguments, Words{"m"});
  EXPECT_EQ(start({}, {"serve", "m"}, "registry/vllm@sha256:00")->arguments, Words{"m"});
  EXPECT_EQ(start({}, {"m", "--port", "1"}, "r:5000/vllm-rocm:1")->arguments[0], "m");
  // Routers, exporters and what only stands in a registry's path.
  EXPECT_FALSE(start({}, {"--static-backends", "x"}, "org/vllm-router:1"));
  EXPECT_FALSE(start({}, {}, "org/vllm-exporter"));
  EXPECT_FALSE(start({}, {"--model", "m"}, "ghcr.io/vllm-project/router:1"));
  EXPECT_FALSE(start({}, {"bench", "serve"}, "vllm/vllm-openai:v1"));
}

TEST(ServerStart, ShellScripts) {
  const auto found =
      start({"/bin/bash", "-lc"}, {"huggingface-cli download x && export A=1\n"
                                   "B=\"2\" exec vllm serve $MODEL --port 8000 | tee log"});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->arguments, (Words{"org/m", "--port", "8000"}));
  EXPECT_EQ(found->assignments.at("A"), "1");
  EXPECT_EQ(found->assignments.at("B"), "2");
  EXPECT_EQ(found->other_commands, (Words{"huggingface-cli download x", "tee log"}));
  EXPECT_FALSE(start({"sh", "-c", "echo vllm serve"}, {}));
  EXPECT_FALSE(start({"sh", "run.sh"}, {}));
  EXPECT_TRUE(start({"sh", "-e", "-c", "if true; then bash -c 'vllm serve m'; fi"}, {}));
}

}  // namespace
}  // namespace moesaic::deploy
