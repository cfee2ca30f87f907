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

TEST(Metrics, AHandleObservesAsTheNameDoes) {
  const std::vector<double> values = {0.0, 0.001, 0.002, 0.0021, 0.3, 1000.0, 1.0, 1.0};
  Metrics one({{"model_name", "m"}}, 100);
  Metrics many({{"model_name", "m"}}, 100);
  for (const double value : values) one.observe("vllm:time_to_first_token_seconds", value);
  Metrics::Histogram handle = many.histogram("vllm:time_to_first_token_seconds");
  handle.observe_all({});
  handle.observe_all(std::span(values).first(5));
  handle.observe_all(std::span(values).subspan(5));
  EXPECT_TRUE(one.expose() == many.expose());  // printing both would be too much
  EXPECT_NE(one.expose().find("vllm:time_to_first_token_seconds_count{model_name=\"m\"} 8"),
            std::string::npos);
}

}  // namespace
}  // namespace moesaic::base
