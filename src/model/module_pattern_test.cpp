// Names of modules: patterns against std::regex, which is another implementation of the same
// syntax, and what hostile patterns may not do.

#include "model/module_pattern.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <regex>
#include <stdexcept>

namespace moesaic::model {
namespace {

constexpr size_t kStates = 4096;

bool fits(const std::string& pattern, const std::string& name) {
  return ModulePattern::regex(pattern, kStates).matches(name);
}

TEST(ModulePattern, FitsTheBeginningAsPythonsMatchDoes) {
  EXPECT_TRUE(fits(".*self_attn.*", "model.layers.3.self_attn.q_proj"));
  EXPECT_FALSE(fits("self_attn", "model.layers.3.self_attn.q_proj"));
  EXPECT_TRUE(fits("model", "model.layers"));
  EXPECT_FALSE(fits("model$", "model.layers"));
  EXPECT_TRUE(fits(R"(.*\.mlp\.gate$)", "model.layers.0.mlp.gate"));
  EXPECT_FALSE(fits(R"(.*\.mlp\.gate$)", "model.layers.0.mlp.gate_proj"));
  EXPECT_FALSE(fits(R"(.*\.mlp\.gate$)", "model.layers.0.mlpxgate"));
  EXPECT_TRUE(fits(R"(model\.layers\.(1[0-9]|[2-3])\..*)", "model.layers.17.mlp"));
  EXPECT_FALSE(fits(R"(model\.layers\.(1[0-9]|[2-3])\..*)", "model.layers.4.mlp"));
  EXPECT_TRUE(fits(R"([^a-c\d]{2,3}x)", "zzzx"));
  EXPECT_FALSE(fits(R"([^a-c\d]{2,3}x)", "z5x"));
  EXPECT_TRUE(fits(R"([\w.-]+)", "a-b.c"));
  EXPECT_TRUE(fits("(?:a|b)??c", "c"));
  EXPECT_TRUE(fits("", ""));
}

/// Random patterns and names over a few letters.
TEST(ModulePattern, AgreesWithAnotherImplementation) {
  std::mt19937 random(7);
  const auto pick = [&](int count) {
    return static_cast<int>(random() % static_cast<unsigned>(count));
  };
  const std::function<std::string(int)> make = [&](int depth) -> std::string {
    std::string pattern;
    for (int i = pick(4); i >= 0; --i) {
      std::string atom = std::vector<std::string>{
          "a", "b", ".", "[ab]", "[^a]", "\\w", "\\.", "^", "$"}[static_cast<size_t>(pick(9))];
      const bool anchor = atom == "^" || atom == "$";
      if (depth > 0 && pick(3) == 0) atom = "(" + make(depth - 1) + ")";
      if (!anchor || atom[0] == '(') {
        atom += std::vector<std::string>{
            "", "", "*", "+", "?", "{2}", "{1,}", "{0,2}"}[static_cast<size_t>(pick(8))];
      }
      pattern += atom;
    }
    if (depth > 0 && pick(3) == 0) pattern += "|" + make(depth - 1);
    return pattern;
  };
  int matched = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string pattern = make(2);
    const std::regex other(pattern);
    for (int i = 0; i < 8; ++i) {
      std::string name;
      for (int n = pick(7); n > 0; --n) name += "ab.c"[pick(4)];
      const bool expected = std::regex_search(name, other, std::regex_constants::match_continuous);
      matched += expected ? 1 : 0;
      ASSERT_EQ(fits(pattern, name), expected) << pattern << " on '" << name << "'";
    }
  }
  EXPECT_GT(matched, 5000);
  EXPECT_LT(matched, 20000);
}

TEST(ModulePattern, RefusesWhatItCannotReadByReason) {
  struct Bad {
    const char* pattern;
    const char* reason;
  };
  for (const Bad& bad :
       {Bad{"(?!lm_head).*", "looks ahead"}, Bad{"(?i)a", "flags"}, Bad{"(a", "without its )"},
        Bad{"a)", "without its ("}, Bad{"[a", "without its ]"}, Bad{"*a", "repeats nothing"},
        Bad{"a**", "repeats a repetition"}, Bad{"a{3,1}", "at most"}, Bad{"a{", "without a number"},
        Bad{R"(\1)", "not supported"}, Bad{"\\", "backslash"}, Bad{"[b-a]", "range"},
        Bad{"a{99999999999999999999}", "too often"}, Bad{"(a{1000}){1000}", "too large"}}) {
    try {
      ModulePattern::regex(bad.pattern, kStates);
      ADD_FAILURE() << bad.pattern;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(bad.reason), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(ModulePattern::regex(std::string(100000, '('), kStates), std::invalid_argument);
  EXPECT_THROW(ModulePattern::regex(std::string(100000, '|'), kStates), std::invalid_argument);
  EXPECT_THROW(ModulePattern::regex(std::string(5000, 'a'), kStates), std::invalid_argument);
}

TEST(ModulePattern, TakesItsTimeFromLengthsAlone) {
  const auto begin = std::chrono::steady_clock::now();
  const std::string name(200, 'a');
  for (const char* pattern : {"((a*)*)*b", "(a|a)*b", "(a?){50}a{50}b", "(.*)*(.*)*x"}) {
    EXPECT_FALSE(fits(pattern, name));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(ModuleSet, HoldsNamesPartsWildcardsAndPatterns) {
  ModuleSet set;
  for (const char* entry : {"lm_head", "block_sparse_moe.gate", "model.layers.2.", "*.q_proj",
                            "re:.*shared_expert\\..*"}) {
    set.add(entry);
  }
  for (const char* in : {"lm_head", "model.lm_head", "model.layers.3.block_sparse_moe.gate",
                         "model.layers.2.mlp.up_proj", "model.layers.0.self_attn.q_proj",
                         "model.layers.0.mlp.shared_expert.up_proj"}) {
    EXPECT_TRUE(set.contains(in)) << in;
  }
  for (const char* out :
       {"lm_head2", "model.layers.3.block_sparse_moe.gate_proj", "model.layers.21.mlp.up_proj",
        "model.layers.0.self_attn.q_proj.a", "model.layers.0.mlp.shared_expert_gate", "gate", ""}) {
    EXPECT_FALSE(set.contains(out)) << out;
  }
}

TEST(ModuleSet, BoundsItsPatternsTogether) {
  ModuleSet set;
  EXPECT_THROW(
      for (int i = 0; i < 10000; ++i) { set.add("re:" + std::string(100, 'a')); },
      std::invalid_argument);
}

}  // namespace
}  // namespace moesaic::model
