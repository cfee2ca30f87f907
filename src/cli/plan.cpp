#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <memory>

#include "backend/ops.h"
#include "base/error.h"
#include "base/file.h"
#include "base/machine.h"
#include "base/settings.h"
#include "cli/commands.h"
#include "model/memory_needs.h"

namespace moesaic::cli {
namespace {

std::optional<int64_t> maybe_integer(const Invocation& invocation, const std::string& name) {
  if (!invocation.has(name)) return std::nullopt;
  constexpr int64_t kMost = int64_t{1} << 40;
  const std::string text = invocation.option(name, "");
  if (text == "auto") return std::nullopt;
  if (const std::optional<int64_t> value = base::parse_integer(text)) return value;
  // Digits beyond int64's range read as absurdly large; anything else is not a number.
  const size_t digits = text.starts_with('-') ? 1 : 0;
  if (text.size() == digits || text.find_first_not_of("0123456789", digits) != std::string::npos) {
    throw base::UsageError(
        fmt::format("--{} {}: expected a whole number (1k = 1000, 1K = 1024)", name, text));
  }
  return digits == 1 ? -kMost : kMost;
}

double number(const Invocation& invocation, const std::string& name, double fallback) {
  if (!invocation.has(name)) return fallback;
  const std::string text = invocation.option(name, "");
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // Written so that NaN fails too.
  if (error != std::errc{} || end != text.data() + text.size() ||
      !(value >= -1e12 && value <= 1e12)) {
    throw base::UsageError(fmt::format("--{} {}: expected a number", name, text));
  }
  return value;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const size_t first = std::min(list.find_first_not_of(' ', at), comma);
    const size_t last = list.find_last_not_of(' ', comma - 1);
    if (comma > first) parts.push_back(list.substr(first, last - first + 1));
    at = comma + 1;
  }
  return parts;
}

void write_page(const std::string& file, const std::string& page) {
  base::write_file(file, page);
  std::cerr << "wrote " << file << "\n";
}

plan::PlanInputs inputs_of(const Invocation& invocation) {
  if (invocation.arguments.size() != 1) {
    throw base::UsageError(
        "plan takes one MODEL: a folder, a config.json or a published model's Hub name, such as "
        "mistralai/Mixtral-8x7B-v0.1");
  }
  plan::PlanInputs inputs;
  std::optional<std::filesystem::path> hardware;
  if (invocation.has("hardware")) hardware = invocation.option("hardware", "");
  inputs.catalog = plan::load_catalog(hardware);
  inputs.model = plan::resolve_model(invocation.arguments[0]);
  inputs.instances = split(invocation.option("instance", ""));
  if (invocation.has("cloud")) inputs.clouds = split(invocation.option("cloud", ""));
  inputs.engine = invocation.option("engine", inputs.engine);
  inputs.concurrency = maybe_integer(invocation, "concurrency");
  inputs.context = maybe_integer(invocation, "context");
  inputs.prompt = maybe_integer(invocation, "prompt-tokens");
  inputs.output = maybe_integer(invocation, "output-tokens");
  inputs.dtype = invocation.option("dtype", inputs.dtype);
  inputs.quantization = invocation.option("quantization", inputs.quantization);
  inputs.kv_cache_dtype = invocation.option("kv-cache-dtype", inputs.kv_cache_dtype);
  inputs.tp = maybe_integer(invocation, "tp");
  inputs.ep = maybe_integer(invocation, "ep");
  inputs.pp = maybe_integer(invocation, "pp");
  if (invocation.has("budget")) inputs.budget = number(invocation, "budget", 0);
  inputs.utilization = number(invocation, "utilization", inputs.utilization);
  return inputs;
}

int run_plan(const Invocation& invocation) {
  plan::PlanInputs inputs = inputs_of(invocation);
  const bool host = std::find(inputs.instances.begin(), inputs.instances.end(),
                              plan::kHostInstance) != inputs.instances.end();
  std::unique_ptr<base::ThreadPool> pool;
  std::unique_ptr<backend::Backend> backend;
  if (host) {
    pool = std::make_unique<base::ThreadPool>();
    backend = backend::make_cpu_backend(*pool);
    inputs.host = {.backend = backend.get(), .memory_bytes = base::memory_limit()};
  }
  const plan::Plan plan = plan::make_plan(inputs);
  if (invocation.has("html")) write_page(invocation.option("html", ""), plan::to_html(plan));
  if (invocation.has("json")) {
    std::cout << plan::to_json(plan);
  } else if (!invocation.has("html")) {
    std::cout << plan::to_text(plan);
  }
  if (plan.found()) return 0;
  throw base::UnavailableError(plan.notes.front());
}

}  // namespace

Command plan_command() {
  return {
      "plan",
      "MODEL",
      "Say which devices a model needs, what it does there and what that costs.",
      "MODEL is a folder or a config.json of any known family, or the Hub name of a published "
      "model whose sizes are shipped. Nothing is downloaded and no device is needed. "
      "docs/planning.md has the formulas.",
      {{"instance", "NAMES", "Instances to look at, separated by commas; host is this machine."},
       {"cloud", "NAMES",
        "Whose instances, without --instance: aws (default), gcp, azure, ..., all."},
       {"hardware", "FILE", "YAML file of more accelerators and instances."},
       {"concurrency", "N", "Sequences to hold at once (default: as many as fit, up to 32)."},
       {"context", "N",
        "Longest sequence in tokens, such as 8192 or 8K (default: 4096, or the model's)."},
       {"prompt-tokens", "N", "Tokens of a usual prompt."},
       {"output-tokens", "N", "Tokens of a usual answer."},
       {"dtype", "TYPE", "Type of plain weights: auto, bfloat16, float16, float32."},
       {"quantization", "NAME",
        "none, fp8, int8, int4, awq, gptq, mxfp4, nvfp4 (default: as published)."},
       {"kv-cache-dtype", "TYPE", "auto, bfloat16, float16, fp8."},
       {"tp", "N", "Ways in which each expert is cut."},
       {"ep", "N", "Groups over which experts are dealt out."},
       {"pp", "N", "Pipeline stages."},
       {"budget", "USD", "Most US dollars an hour for whole instances."},
       {"utilization", "SHARE", "Share of each device's memory to use (default 0.9)."},
       {"engine", "NAME", "Whose speed to expect: moesaic, vllm, tgi, neuron."},
       {"json", "", "Print one JSON object (docs/plan.schema.json)."},
       {"html", "FILE", "Write one page with charts."}},
      {},
      run_plan};
}

}  // namespace moesaic::cli
