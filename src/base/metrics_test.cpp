#include "base/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace moesaic::base {
namespace {

TEST(Metrics, ExposesEveryKindWithConstantLabels) {
  Metrics metrics({{"model_name", "demo"}, {"engine", "0"}}, 300);
  metrics.add("vllm:request_success_total", 2, {{"finished_reason", "stop"}});
  metrics.set("vllm:num_requests_running", 3);
  metrics.observe("vllm:request_prompt_tokens", 150);
  metrics.raise_to("vllm:prompt_tokens_total", 7);
  metrics.raise_to("vllm:prompt_tokens_total", 5);
  const std::string text = metrics.expose();
  for (const char* line : {
           "# TYPE vllm:request_success_total counter",
           "vllm:request_success_total{engine=\"0\",model_name=\"demo\",finished_reason=\"stop\"} "
           "2",
           "vllm:num_requests_running{engine=\"0\",model_name=\"demo\"} 3",
           "vllm:prompt_tokens_total{engine=\"0\",model_name=\"demo\"} 7",
           "vllm:request_prompt_tokens_bucket{engine=\"0\",model_name=\"demo\",le=\"100\"} 0",
           "vllm:request_prompt_tokens_bucket{engine=\"0\",model_name=\"demo\",le=\"200\"} 1",
           "vllm:request_prompt_tokens_bucket{engine=\"0\",model_name=\"demo\",le=\"+Inf\"} 1",
       }) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  EXPECT_EQ(text.find("le=\"500\"} 1\nvllm:request_prompt_tokens"), std::string::npos);
}

TEST(Metrics, DocsAreFresh) {
  std::ifstream file(MOESAIC_SOURCE_DIR "/docs/metrics.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), metrics_markdown())
      << "docs/metrics.md is stale; run: build/release/moesaic docs metrics > docs/metrics.md";
}

}  // namespace
}  // namespace moesaic::base
