#include "plan/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "plan/plan_testing.h"

namespace moesaic::plan {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

std::string usage_error(const PlanInputs& inputs) {
  try {
    make_plan(inputs);
  } catch (const base::UsageError& error) {
    EXPECT_EQ(error.exit_code(), base::ExitCode::kUsage);
    return error.what();
  }
  return "";
}

const Candidate& only(const Plan& plan) {
  EXPECT_EQ(plan.candidates.size(), 1u);
  return plan.candidates[0];
}

/// What people run these models on.
TEST(Practice, TheRecommendedMinimumIsTheUsualOne) {
  const auto devices = [](const std::string& model, const std::string& instance) {
    const Plan plan = make_plan(inputs_for(model, instance));
    EXPECT_TRUE(plan.recommended.has_value()) << model;
    return only(plan).devices;
  };
  EXPECT_EQ(devices("mistralai/Mixtral-8x7B-v0.1", "p4de.24xlarge"), 2);
  EXPECT_EQ(devices("mistralai/Mixtral-8x22B-v0.1", "p5.48xlarge"), 4);
  EXPECT_EQ(devices("deepseek-ai/deepseek-moe-16b-base", "p4d.24xlarge"), 1);
  EXPECT_EQ(devices("deepseek-ai/DeepSeek-V3", "p5en.48xlarge"), 8);
  EXPECT_EQ(devices("openai/gpt-oss-120b", "p5.48xlarge"), 1);
}

/// What is billed is whole instances: two A100s of eight would be cheaper by the device.
TEST(Practice, TheCheapestWholeInstanceIsRecommended) {
  const Plan plan = make_plan(inputs_for("mistralai/Mixtral-8x7B-v0.1"));
  ASSERT_TRUE(plan.recommended.has_value());
  const Candidate& best = plan.candidates[*plan.recommended];
  EXPECT_EQ(best.instance, "g6e.12xlarge");
  EXPECT_EQ(best.devices, 4);
  bool cheaper_by_the_share = false;
  for (const Candidate& other : plan.candidates) {
    if (!other.recommendable || !other.usd_per_hour) continue;
    EXPECT_LE(*best.usd_per_hour_instances, *other.usd_per_hour_instances) << other.instance;
    cheaper_by_the_share |= *other.usd_per_hour < *best.usd_per_hour;
  }
  EXPECT_TRUE(cheaper_by_the_share);
}

TEST(Practice, TheContextThatFits8x22BIsSaid) {
  const Plan plan = make_plan(inputs_for("mistralai/Mixtral-8x22B-v0.1", "p5.48xlarge"));
  const Candidate& candidate = only(plan);
  EXPECT_GT(candidate.max_model_len, 30000);
  EXPECT_LT(candidate.max_model_len, 65536) << "less than the model's own";
  PlanInputs longest = inputs_for("mistralai/Mixtral-8x22B-v0.1", "p5.48xlarge");
  longest.tp = 4;
  longest.ep = longest.pp = 1;
  longest.concurrency = 1;
  longest.context = candidate.max_model_len;
  EXPECT_TRUE(only(make_plan(longest)).fits);
  longest.context = candidate.max_model_len + 64;
  EXPECT_FALSE(only(make_plan(longest)).fits);
  EXPECT_NE(to_text(plan).find("one sequence may have"), std::string::npos);
}

TEST(Plan, TermsAddUpToTheDeviceWhenItFits) {
  for (const std::string& name : shipped_model_names()) {
    for (const Candidate& candidate : make_plan(inputs_for(name)).candidates) {
      if (!candidate.fits) continue;
      EXPECT_EQ(candidate.per_device.total(), candidate.device_bytes)
          << name << " " << candidate.instance;
      EXPECT_GE(candidate.per_device.kv_cache, candidate.kv_needed);
      const double context = static_cast<double>(candidate.per_device.runtime) / kGiB;
      EXPECT_GE(context, 1.0);
      EXPECT_LE(context, 2.0);
      const double margin = static_cast<double>(candidate.per_device.margin) /
                            static_cast<double>(candidate.device_bytes);
      EXPECT_NEAR(margin, 0.1, 1e-6);
    }
  }
}

TEST(Plan, SmallerLayoutsAreNamedWithTheReason) {
  const Plan plan = make_plan(inputs_for("mistralai/Mixtral-8x22B-v0.1", "p5.48xlarge"));
  const Candidate& candidate = only(plan);
  ASSERT_EQ(candidate.smaller.size(), 2u);
  EXPECT_NE(candidate.smaller[0].find("1 x H100"), std::string::npos);
  EXPECT_NE(candidate.smaller[1].find("exceed 79.1 GiB"), std::string::npos);
}

TEST(Plan, WidthsThatDoNotDivideAreSaid) {
  PlanInputs inputs = inputs_for("deepseek-ai/deepseek-moe-16b-base", "g5.12xlarge");
  inputs.concurrency = 64;
  const Candidate dealt = only(make_plan(inputs));
  EXPECT_EQ(dealt.ep, 4) << "1408 does not cut four ways in multiples of 64";
  ASSERT_FALSE(dealt.notes.empty());
  EXPECT_NE(dealt.notes[0].find("experts stay whole"), std::string::npos);
  inputs.tp = 4;
  const Candidate padded = only(make_plan(inputs));
  EXPECT_EQ(padded.ep, 1);
  ASSERT_FALSE(padded.notes.empty());
  EXPECT_NE(padded.notes[0].find("padded to 1536"), std::string::npos) << padded.notes[0];
}

TEST(Plan, RanksAskedForAreTriedWhateverTheirCount) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "p5.48xlarge");
  inputs.pp = 3;
  const Candidate three = only(make_plan(inputs));
  EXPECT_TRUE(three.fits) << three.reason;
  EXPECT_EQ(three.devices, 3);
  inputs.pp.reset();
  inputs.tp = 6;
  EXPECT_EQ(only(make_plan(inputs)).reason, "32 heads do not divide over 6 devices");
  inputs.tp = 16;
  EXPECT_NE(only(make_plan(inputs)).reason.find("no layout has --tp 16; a stage stays inside"),
            std::string::npos);
  inputs.pp = 1;
  EXPECT_EQ(only(make_plan(inputs)).nodes, 2);
}

TEST(Plan, WhatIsShownIsNotAmongWhatElseDoesNotFit) {
  PlanInputs inputs = inputs_for("Qwen/Qwen1.5-MoE-A2.7B", "trn1.32xlarge");
  inputs.tp = inputs.pp = 1;  // 60 experts over 8 and 16 groups cannot be, over 4 do not fit
  inputs.utilization = 0.1;
  const Candidate candidate = only(make_plan(inputs));
  EXPECT_FALSE(candidate.fits);
  EXPECT_EQ(candidate.devices, 4);
  for (const std::string& other : candidate.smaller) {
    EXPECT_NE(other.rfind("4 x Trainium1", 0), 0u) << other;
  }
  ASSERT_GT(candidate.smaller.size(), 2u);
  EXPECT_EQ(candidate.smaller[2], "8 x Trainium1: 60 experts do not divide over 8 groups");
}

TEST(Plan, TypesHaveShortNames) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "p5.48xlarge");
  for (const char* name : {"float", "fp32", "float32"}) {
    inputs.dtype = name;
    const Plan plan = make_plan(inputs);
    EXPECT_EQ(plan.kv_element_bytes, 4) << name;
    EXPECT_EQ(plan.format.value_bits, 32) << name;
  }
  inputs.dtype = "bf16";
  EXPECT_EQ(make_plan(inputs).kv_element_bytes, 2);
}

TEST(Plan, HeadsThatDoNotDivideTakeStages) {
  PlanInputs inputs = inputs_for("Qwen/Qwen2-57B-A14B", "g5.48xlarge");
  const Candidate candidate = only(make_plan(inputs));
  EXPECT_TRUE(candidate.fits) << candidate.reason;
  EXPECT_EQ(candidate.devices, 8);
  EXPECT_EQ(candidate.pp, 2) << "28 heads do not divide by 8";
}

TEST(Plan, MoreThanOneNodeIsAStageEach) {
  PlanInputs inputs = inputs_for("deepseek-ai/DeepSeek-V3", "p5en.48xlarge");
  inputs.quantization = "none";
  const Candidate candidate = only(make_plan(inputs));
  EXPECT_TRUE(candidate.fits);
  EXPECT_EQ(candidate.nodes, 2);
  EXPECT_EQ(candidate.pp, 2);
  EXPECT_EQ(candidate.devices, 16);
  EXPECT_NEAR(*candidate.usd_per_hour_instances, 2 * 63.296, 1e-9);
}

TEST(Plan, APartOfAnInstanceCostsItsShare) {
  const Candidate candidate = only(make_plan(inputs_for("mixtral-8x7b", "p4de.24xlarge")));
  EXPECT_EQ(candidate.share, 0.25);
  EXPECT_NEAR(*candidate.usd_per_hour, *candidate.usd_per_hour_instances / 4, 1e-9);
  const double millions_per_hour = candidate.served_tokens_per_s * 3600 / 1e6;
  EXPECT_NEAR(*candidate.usd_per_million_tokens_share, *candidate.usd_per_hour / millions_per_hour,
              1e-9);
  EXPECT_NEAR(*candidate.usd_per_million_tokens,
              *candidate.usd_per_hour_instances / millions_per_hour, 1e-9);
}

TEST(Plan, AnExplicitLoadMustBeHeld) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "p5en.48xlarge");
  inputs.concurrency = 64;
  inputs.context = 32768;
  const Candidate candidate = only(make_plan(inputs));
  EXPECT_GT(candidate.devices, 1);
  EXPECT_GE(candidate.sequences, 64);
  EXPECT_EQ(candidate.concurrency, 64);
}

TEST(Plan, TrainiumStandsBesideGpusAndIsRecommendedOnlyToNeuron) {
  PlanInputs inputs = inputs_for("mixtral-8x7b");
  const auto find = [](const Plan& plan, const std::string& name) {
    for (const Candidate& candidate : plan.candidates) {
      if (candidate.instance == name) return candidate;
    }
    return Candidate{};
  };
  const Plan gpu = make_plan(inputs);
  EXPECT_TRUE(find(gpu, "trn2.48xlarge").fits);
  EXPECT_FALSE(find(gpu, "trn2.48xlarge").recommendable);
  EXPECT_EQ(find(gpu, "trn2.48xlarge").engine, "neuron");
  EXPECT_FALSE(find(gpu, "trn2u.48xlarge").usd_per_hour.has_value()) << "no list price is known";
  inputs.engine = "neuron";
  const Plan neuron = make_plan(inputs);
  ASSERT_TRUE(neuron.recommended.has_value());
  EXPECT_EQ(neuron.candidates[*neuron.recommended].vendor, "aws-neuron");
}

TEST(Plan, NoOneSequenceHoldsMoreThanTheCache) {
  for (const std::string& name : shipped_model_names()) {
    for (const Candidate& candidate : make_plan(inputs_for(name)).candidates) {
      EXPECT_LE(candidate.max_model_len, candidate.kv_tokens) << name << " " << candidate.instance;
    }
  }
}

TEST(Plan, ServingIsSlowerThanDecodingByWhatThePromptsTake) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "p5en.48xlarge");
  inputs.prompt = 2048;
  inputs.output = 128;
  const Candidate candidate = only(make_plan(inputs));
  const double seconds =
      2048 / candidate.prefill.tokens_per_s + 128 / candidate.decode.tokens_per_s;
  EXPECT_NEAR(candidate.served_tokens_per_s, 128 / seconds, 1e-6);
  EXPECT_LT(candidate.served_tokens_per_s, 0.6 * candidate.decode.tokens_per_s);
}

/// What moesaic has no figures for is reckoned with another engine's figures, under that engine's
/// name.
TEST(Plan, NoSpeedIsExpectedOfAnEngineWithoutFigures) {
  const Plan plan = make_plan(inputs_for("mixtral-8x7b"));
  for (const Candidate& candidate : plan.candidates) {
    EXPECT_NE(candidate.engine, "moesaic") << candidate.instance;
    EXPECT_FALSE(candidate.engine_runs);
  }
  const std::string text = to_text(plan);
  EXPECT_EQ(text.find("expected of moesaic"), std::string::npos);
  EXPECT_NE(text.find("expected of vllm"), std::string::npos);
  EXPECT_NE(text.find("no figures of moesaic are known for this device"), std::string::npos);
  PlanInputs amd = inputs_for("mixtral-8x7b", "BM.GPU.MI300X.8");
  amd.engine = "vllm";
  EXPECT_TRUE(only(make_plan(amd)).engine_runs);
  EXPECT_TRUE(make_plan(amd).found());
}

TEST(Plan, OtherCloudsAreLookedAtWhenAskedFor) {
  PlanInputs inputs = inputs_for("Qwen/Qwen3-30B-A3B");
  const auto has = [&](const std::string& name) {
    const Plan plan = make_plan(inputs);
    return std::any_of(plan.candidates.begin(), plan.candidates.end(),
                       [&](const Candidate& each) { return each.instance == name; });
  };
  EXPECT_TRUE(has("p5e.48xlarge"));
  EXPECT_FALSE(has("ND96isr_H100_v5"));
  inputs.clouds = {"azure", "pc"};
  EXPECT_FALSE(has("p5e.48xlarge"));
  EXPECT_TRUE(has("ND96isr_H100_v5"));
  EXPECT_TRUE(has("pc-rtx-5090"));
  inputs.clouds = {"all"};
  EXPECT_EQ(make_plan(inputs).candidates.size(), inputs.catalog.instances.size());
  inputs.clouds = {"azur"};
  EXPECT_NE(usage_error(inputs).find("--cloud azur: unknown; the nearest known one is azure"),
            std::string::npos);
  inputs.clouds = {"gcp"};
  inputs.catalog.instances.push_back(inputs.catalog.instances.front());
  inputs.catalog.instances.back().name = "mine";
  inputs.catalog.instances.back().cloud = "own";
  EXPECT_TRUE(has("mine")) << "a user's own are always looked at";
}

TEST(Plan, NothingFoundIsSaidFirst) {
  const Plan none = make_plan(inputs_for("deepseek-ai/DeepSeek-V3", "g5.xlarge"));
  EXPECT_FALSE(none.found());
  EXPECT_EQ(none.notes.front(), "nothing that was looked at holds this load");
  const std::string text = to_text(none);
  EXPECT_LT(text.find("NOTHING"), text.find("instance  "));
  const Plan foreign = make_plan(inputs_for("mixtral-8x7b", "trn2.48xlarge"));
  EXPECT_FALSE(foreign.found());
  EXPECT_NE(foreign.notes.front().find("neuron runs on it"), std::string::npos);
}

TEST(Plan, TheBudgetIsForWholeInstances) {
  PlanInputs inputs = inputs_for("mixtral-8x7b");
  inputs.budget = 11;
  const Plan plan = make_plan(inputs);
  ASSERT_TRUE(plan.recommended.has_value());
  EXPECT_EQ(plan.candidates[*plan.recommended].instance, "g6e.12xlarge");
  inputs.budget = 0.5;
  const Plan none = make_plan(inputs);
  EXPECT_FALSE(none.recommended.has_value());
  EXPECT_NE(to_text(none).find("billed least"), std::string::npos);
  // What has no known price is not within a budget; what is not rented is.
  const auto of = [&](const char* cloud) {
    PlanInputs own = inputs_for("mixtral-8x7b", "p6-b300.48xlarge");
    own.budget = 1000;
    for (Instance& instance : own.catalog.instances) {
      if (instance.name == "p6-b300.48xlarge") instance.cloud = cloud;
    }
    return make_plan(own).found();
  };
  EXPECT_FALSE(of("aws"));
  EXPECT_TRUE(of("own"));
}

/// Each remedy that says it is enough must be, when it is followed.
TEST(Remedies, ThatAreEnoughAre) {
  PlanInputs inputs = inputs_for("mistralai/Mixtral-8x22B-v0.1", "g6e.48xlarge");
  inputs.concurrency = 32;
  inputs.context = 16384;
  const Plan plan = make_plan(inputs);
  EXPECT_FALSE(plan.recommended.has_value());
  ASSERT_EQ(plan.remedies.size(), 6u);
  const std::vector<std::string> order = {"--utilization",        "--context",
                                          "--kv-cache-dtype fp8", "--quantization fp8",
                                          "--quantization awq",   "more devices"};
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(plan.remedies[i].change.rfind(order[i], 0), 0u) << plan.remedies[i].change;
    EXPECT_NE(plan.remedies[i].effect.find_first_of("0123456789"), std::string::npos);
  }
  const auto fits_with = [&](auto change) {
    PlanInputs changed = inputs;
    change(changed);
    return only(make_plan(changed)).fits;
  };
  EXPECT_EQ(fits_with([](PlanInputs& i) { i.utilization = 0.95; }), plan.remedies[0].enough);
  ASSERT_TRUE(plan.remedies[1].enough);
  const int64_t context = std::stoll(plan.remedies[1].change.substr(10));
  EXPECT_TRUE(fits_with([&](PlanInputs& i) { i.context = context; }));
  EXPECT_FALSE(fits_with([&](PlanInputs& i) { i.context = context + 1; }));
  EXPECT_EQ(fits_with([](PlanInputs& i) { i.kv_cache_dtype = "fp8"; }), plan.remedies[2].enough);
  EXPECT_EQ(fits_with([](PlanInputs& i) { i.quantization = "fp8"; }), plan.remedies[3].enough);
  EXPECT_EQ(fits_with([](PlanInputs& i) { i.quantization = "awq"; }), plan.remedies[4].enough);
  EXPECT_TRUE(plan.remedies[3].enough || plan.remedies[4].enough);
}

/// The flags of the remedy "--context ..." as they would be given.
bool fits_with_flags(PlanInputs inputs, const std::string& flags) {
  std::istringstream words(flags);
  std::string flag;
  for (int64_t value = 0; words >> flag >> value;) {
    if (flag == "--context") inputs.context = value;
    if (flag == "--prompt-tokens") inputs.prompt = value;
    if (flag == "--output-tokens") inputs.output = value;
  }
  return only(make_plan(inputs)).fits;
}

TEST(Remedies, AShorterContextIsOneThatCanBeGiven) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "g6e.12xlarge");
  inputs.concurrency = 100;
  inputs.prompt = 5000;
  Plan plan = make_plan(inputs);
  ASSERT_EQ(plan.remedies.size(), 6u);
  EXPECT_NE(plan.remedies[1].change.find("--prompt-tokens"), std::string::npos);
  EXPECT_TRUE(fits_with_flags(inputs, plan.remedies[1].change)) << plan.remedies[1].change;
  inputs.prompt.reset();
  inputs.concurrency = 2000;  // short requests by default, but all as long as a --context is
  plan = make_plan(inputs);
  ASSERT_EQ(plan.remedies.size(), 6u);
  EXPECT_TRUE(fits_with_flags(inputs, plan.remedies[1].change)) << plan.remedies[1].change;
  inputs.concurrency = 100000;
  plan = make_plan(inputs);
  ASSERT_EQ(plan.remedies.size(), 6u);
  EXPECT_NE(plan.remedies[1].effect.find("100000 sequences of even 16"), std::string::npos);
}

TEST(Remedies, AreForWhatTheEngineRunsOn) {
  PlanInputs inputs = inputs_for("deepseek-ai/DeepSeek-V3");
  inputs.instances = {"g5.xlarge", "trn1.2xlarge"};
  const Plan gpu = make_plan(inputs);
  EXPECT_EQ(gpu.candidates[*gpu.remedied].instance, "g5.xlarge");
  inputs.engine = "neuron";
  const Plan neuron = make_plan(inputs);
  EXPECT_EQ(neuron.candidates[*neuron.remedied].instance, "trn1.2xlarge");
}

TEST(Remedies, SayWhenTheWeightsAloneAreTooMuch) {
  const Plan plan = make_plan(inputs_for("deepseek-ai/DeepSeek-V3", "g5.xlarge"));
  ASSERT_FALSE(plan.remedies.empty());
  EXPECT_NE(to_text(plan).find("no context fits"), std::string::npos);
}

TEST(Errors, NameTheNearestValidChoice) {
  PlanInputs inputs = inputs_for("mixtral-8x7b", "p5.48xlrge");
  EXPECT_NE(usage_error(inputs).find("nearest known one is p5.48xlarge"), std::string::npos);
  EXPECT_NE(usage_error(inputs_for("mixtral-8x7b", "h100"))
                .find("the instances with it are p5.4xlarge, p5.48xlarge"),
            std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.budget = 0;
  EXPECT_NE(usage_error(inputs).find("the cheapest, inf2.xlarge, costs 0.76"), std::string::npos);
  inputs.budget = -3;
  EXPECT_NE(usage_error(inputs).find("--budget -3"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.context = int64_t{1} << 40;
  EXPECT_NE(usage_error(inputs).find("nearest valid value is 32768"), std::string::npos);
  inputs.context = 0;
  EXPECT_NE(usage_error(inputs).find("nearest valid value is 1"), std::string::npos);
  inputs.context = 100;
  inputs.prompt = 100;
  inputs.output = 50;
  EXPECT_NE(usage_error(inputs).find("--context 150"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.prompt = 32768;
  inputs.output = 1000;
  EXPECT_NE(usage_error(inputs).find("--prompt-tokens 31768"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.engine = "vlm";
  EXPECT_NE(usage_error(inputs).find("nearest known one is vllm"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.quantization = "fp9";
  EXPECT_NE(usage_error(inputs).find("nearest known one is fp8"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.kv_cache_dtype = "fp7";
  EXPECT_NE(usage_error(inputs).find("nearest known one is fp8"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.dtype = "bflot16";
  EXPECT_NE(usage_error(inputs).find("nearest known one is bfloat16"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.tp = 0;
  EXPECT_NE(usage_error(inputs).find("--tp 0"), std::string::npos);
  inputs.tp = inputs.ep = inputs.pp = 1024;
  EXPECT_NE(usage_error(inputs).find("at most 1024"), std::string::npos);
  inputs = inputs_for("mixtral-8x7b");
  inputs.utilization = std::nan("");
  EXPECT_NE(usage_error(inputs).find("--utilization"), std::string::npos);
  inputs.utilization = 90;
  EXPECT_NE(usage_error(inputs).find("nearest valid value is 1,"), std::string::npos);
  inputs.utilization = 0.05;
  EXPECT_EQ(usage_error(inputs), "");
  inputs = inputs_for("mixtral-8x7b");
  inputs.concurrency = 0;
  EXPECT_NE(usage_error(inputs).find("--concurrency"), std::string::npos);
}

TEST(Text, IsAtMost80ColumnsWide) {
  for (const std::string& name : shipped_model_names()) {
    PlanInputs inputs = inputs_for(name);
    for (const std::string& instance : {std::string(), std::string("g5.xlarge")}) {
      inputs.instances.clear();
      if (!instance.empty()) inputs.instances = {instance};
      std::istringstream text(to_text(make_plan(inputs)));
      for (std::string line; std::getline(text, line);) {
        EXPECT_LE(line.size(), 80u) << line;
        EXPECT_TRUE(line.empty() || line.back() != ' ') << "[" << line << "]";
      }
    }
  }
}

TEST(Text, KeepsItsColumnsApartWhateverTheFigures) {
  PlanInputs inputs = inputs_for("mixtral-8x7b");
  inputs.catalog.instances[0].name = "an-instance-of-a-name-that-leaves-no-room";
  inputs.model.spec.layers.resize(1);
  inputs.context = 1;
  Plan plan = make_plan(inputs);
  for (Candidate& candidate : plan.candidates) candidate.sequences = 154008016;
  const std::string small = to_text(plan);
  EXPECT_NE(small.find(" 154.0M "), std::string::npos);
  inputs = inputs_for("Qwen/Qwen3-30B-A3B", "p4d.24xlarge");
  inputs.concurrency = 1 << 20;
  inputs.context = 40960;
  const std::string large = to_text(make_plan(inputs));
  inputs = inputs_for("deepseek-ai/DeepSeek-V3", "p4d.24xlarge");
  inputs.quantization = "none";
  const std::string many = to_text(make_plan(inputs));
  EXPECT_NE(many.find("32/32 A100-40GB "), std::string::npos);
  for (const std::string& text : {small, large, many}) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST(Text, SaysThatServeCannotRunIt) {
  EXPECT_NE(to_text(make_plan(inputs_for("openai/gpt-oss-20b"))).find("cannot run this model yet"),
            std::string::npos);
  EXPECT_EQ(to_text(make_plan(inputs_for("mixtral-8x7b"))).find("cannot run this model yet"),
            std::string::npos);
}

TEST(Page, EscapesWhatItIsGivenAndFetchesNothing) {
  PlanInputs inputs = inputs_for("mixtral-8x7b");
  inputs.model.name = "<script>alert('x')</script>&\"";
  inputs.model.relation = "</li><img src=x onerror=alert(1)>";
  inputs.catalog.instances[0].name = "<b>bold</b>";
  const std::string page = to_html(make_plan(inputs));
  for (const char* forbidden :
       {"<img", "<b>", "<link", "<iframe", "http:", "https:", "url(", "@import"}) {
    EXPECT_EQ(page.find(forbidden), std::string::npos) << forbidden;
  }
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
  EXPECT_NE(page.find("<svg"), std::string::npos);
  EXPECT_NE(page.find("class=\"best\""), std::string::npos);
}

TEST(Page, IsMadeWhenNothingFits) {
  const std::string page = to_html(make_plan(inputs_for("deepseek-ai/DeepSeek-V3", "g5.xlarge")));
  EXPECT_NE(page.find("Remedies"), std::string::npos);
  EXPECT_NE(page.find("nothing to chart"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::plan
