#include "plan/hardware.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace moesaic::plan {
namespace {

/// Each test is a process of its own, several at a time.
std::filesystem::path write(const std::string& text) {
  auto file = std::filesystem::path(testing::TempDir()) / fmt::format("hardware_{}.yaml", getpid());
  std::ofstream(file, std::ios::binary) << text;
  return file;
}

constexpr const char* kDevice = R"(
accelerators:
  - {name: X1, memory_gib: 64, bandwidth_gbps: 1000, bf16_tflops: 100, link_gbps: 50}
)";

TEST(Catalog, HasWhatTheIssueNamesWithDatedPrices) {
  const Catalog catalog = load_catalog();
  for (const char* name : {"A10G", "L4", "L40S", "A100-40GB", "A100-80GB", "H100", "H200", "B200",
                           "B300", "MI300X", "RTX-3090", "RTX-4090", "RTX-5090", "RTX-PRO-6000",
                           "Trainium1", "Trainium2", "Trainium3", "Inferentia2"}) {
    EXPECT_NE(catalog.find_accelerator(name), nullptr) << name;
  }
  for (const char* prefix :
       {"g5.", "g6.", "g6e.", "p4d.", "p4de.", "p5.", "p5e.", "p5en.", "p6-b200.", "p6-b300.",
        "inf2.", "trn3-", "trn1.", "trn2.", "trn2u."}) {
    EXPECT_TRUE(std::any_of(catalog.instances.begin(), catalog.instances.end(),
                            [&](const Instance& i) { return i.name.starts_with(prefix); }))
        << prefix;
  }
  for (const Instance& instance : catalog.instances) {
    ASSERT_NE(catalog.find_accelerator(instance.accelerator), nullptr) << instance.name;
    if (!instance.usd_per_hour) continue;
    EXPECT_EQ(instance.price_date.substr(0, 2), "20") << instance.name;
    EXPECT_NE(instance.price_source.find("verify before buying"), std::string::npos);
  }
  const Accelerator& h200 = *catalog.find_accelerator("h200");
  EXPECT_TRUE(h200.measured);
  EXPECT_EQ(h200.bandwidth, 4.47e12);
  EXPECT_EQ(h200.bf16_flops, 813e12);
  EXPECT_FALSE(catalog.find_accelerator("H100")->measured);
  EXPECT_NEAR(catalog.find_accelerator("H100")->bandwidth, 3.35e12 * 0.93, 1e6);
}

TEST(Catalog, EveryFigureHasASourceAndEveryCloudAnInstance) {
  const Catalog catalog = load_catalog();
  EXPECT_EQ(catalog.clouds(), (std::vector<std::string>{"aws", "gcp", "azure", "oci", "pc"}));
  for (const Accelerator& device : catalog.accelerators) {
    EXPECT_GT(device.source.size(), 10u) << device.name;
    EXPECT_TRUE(std::any_of(catalog.instances.begin(), catalog.instances.end(), [&](const auto& i) {
      return i.accelerator == device.name;
    })) << device.name;
  }
}

TEST(Catalog, AUsersFileAddsAndReplaces) {
  const Catalog catalog = load_catalog(write(std::string(kDevice) + R"(
instances:
  - {name: box, accelerator: X1, devices: 2, host_memory_gib: 256}
  - {name: p5.48xlarge, accelerator: H100, devices: 8, host_memory_gib: 2048, usd_per_hour: 30,
     price_date: 2026-11, price_source: our contract}
)"));
  EXPECT_EQ(catalog.find_instance("box")->devices, 2);
  EXPECT_FALSE(catalog.find_instance("box")->usd_per_hour.has_value());
  EXPECT_EQ(*catalog.find_instance("p5.48xlarge")->usd_per_hour, 30);
  EXPECT_EQ(catalog.find_instance("P5.48XLARGE")->price_source, "our contract");
  EXPECT_NE(catalog.find_instance("g5.xlarge"), nullptr);
}

TEST(Catalog, BadFilesAreRefusedByLineAndKey) {
  const auto said = [](const std::string& text) {
    try {
      load_catalog(write(text));
    } catch (const base::ModelFileError& error) {
      EXPECT_EQ(error.exit_code(), base::ExitCode::kBadModel);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(said("accelerators: [{name: X}]").find("memory_gib"), std::string::npos);
  EXPECT_NE(said("accelerators: [{nam: X}]").find("name"), std::string::npos);
  EXPECT_NE(said("instances:\n  - {name: b, accelerator: H10, devices: 1, host_memory_gib: 1}")
                .find("nearest is H100"),
            std::string::npos);
  EXPECT_NE(said(std::string(kDevice) + "colour: red").find("unknown key \"colour\""),
            std::string::npos);
  EXPECT_NE(said("a: [1").find("line"), std::string::npos);
  EXPECT_NE(said("- 1").find("mapping"), std::string::npos);
  EXPECT_NE(said("").find("mapping"), std::string::npos);
  EXPECT_EQ(said("").find("line 0"), std::string::npos);
  EXPECT_NE(said("accelerators: {a: b}").find("\"accelerators\" must be a list"),
            std::string::npos);
  EXPECT_NE(said("instances: hello").find("\"instances\" must be a list"), std::string::npos);
  EXPECT_NE(said("instances:\n  - {name: b, accelerator: H100, devices: 1.5, host_memory_gib: 1}")
                .find("whole number"),
            std::string::npos);
  EXPECT_NE(said("instances:\n  - {name: Host, accelerator: H100, devices: 1, host_memory_gib: 1}")
                .find("this machine"),
            std::string::npos);
  EXPECT_NE(said("instances:\n  - {name: b, accelerator: H100, devices: .nan, host_memory_gib: 1}")
                .find("devices"),
            std::string::npos);
  EXPECT_NE(said(std::string(size_t{2} << 20, '#')).find("bytes"), std::string::npos);
  EXPECT_THROW(load_catalog("/no/such/file.yaml"), base::MissingFileError);
}

TEST(Catalog, AliasesThatMultiplyAreHarmless) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format("a{}: &a{} [*a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}]\n", i, i,
                        i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
  }
  EXPECT_THROW(load_catalog(write(bomb)), base::ModelFileError);
  EXPECT_THROW(load_catalog(write(bomb + "accelerators: *a11\n")), base::ModelFileError);
}

TEST(Efficiency, HasOneSetPerEngineWithItsSource) {
  EXPECT_EQ(engine_names(), (std::vector<std::string>{"vllm", "moesaic", "tgi", "neuron"}));
  for (const std::string& engine : engine_names()) {
    EXPECT_GT(find_efficiency(engine).source.size(), 20u);
  }
  EXPECT_THROW(find_efficiency("sglang"), base::UsageError);
}

TEST(Efficiency, IsThatOfAnEngineThatRunsOnTheDevice) {
  for (const std::string& engine : engine_names()) {
    for (const char* vendor : {"nvidia", "amd", "aws-neuron"}) {
      EXPECT_TRUE(efficiency_on(engine, vendor).runs_on(vendor)) << engine << " " << vendor;
    }
  }
  EXPECT_EQ(efficiency_on("moesaic", "nvidia").engine, "vllm");
  EXPECT_EQ(efficiency_on("tgi", "amd").engine, "tgi");
  EXPECT_EQ(efficiency_on("vllm", "aws-neuron").engine, "neuron");
}

}  // namespace
}  // namespace moesaic::plan
