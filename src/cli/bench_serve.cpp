#include "cli/bench_serve.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <iostream>

#include "base/error.h"
#include "base/printable.h"
#include "base/strict_json.h"
#include "cli/bench_load.h"

namespace moesaic::cli {
namespace {

namespace json = boost::json;

constexpr NumberRange kLengths{1, 1 << 20};
constexpr int64_t kConcurrency = 16;

/// Settings are of a model that runs here; two of them mean something to a server elsewhere.
void refuse_settings(const base::Settings& settings) {
  for (const std::string& name : settings.set_names()) {
    if (name == "model" || name == "seed" || !settings.origin(name).starts_with('-')) continue;
    throw base::UsageError(
        fmt::format("{} says how a model runs; 'bench serve' measures one that runs elsewhere",
                    settings.origin(name)));
  }
}

std::vector<std::pair<std::string, std::string>> headers_of(const Invocation& invocation) {
  std::vector<std::pair<std::string, std::string>> headers;
  if (invocation.has("api-key")) {
    headers.emplace_back("Authorization", "Bearer " + invocation.option("api-key", ""));
  }
  std::string_view rest;
  const std::string all = invocation.option("header", "");
  for (rest = all; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    const bool named = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '-' || c == '_';
    });
    if (colon == std::string_view::npos || !named) {
      throw base::UsageError(
          fmt::format("--header '{}': expected NAME: VALUE", base::printable(line)));
    }
    std::string_view value = line.substr(colon + 1);
    while (value.starts_with(' ')) value.remove_prefix(1);
    headers.emplace_back(name, value);
  }
  for (const auto& [name, value] : headers) {
    if (std::any_of(value.begin(), value.end(), [](unsigned char c) { return c < ' '; })) {
      throw base::UsageError(
          fmt::format("the value of the header {} has a control character", name));
    }
  }
  return headers;
}

json::object extra_body(const Invocation& invocation) {
  json::object extra;
  if (invocation.has("extra-body")) {
    const std::string text = invocation.option("extra-body", "");
    try {
      json::value value = base::parse_strict_json(text);
      if (!value.is_object()) throw base::UsageError("--extra-body is no JSON object");
      extra = std::move(value.get_object());
    } catch (const base::JsonError& error) {
      throw base::UsageError(fmt::format("--extra-body is not JSON: {}", error.what()));
    }
    for (const char* own :
         {"model", "prompt", "messages", "max_tokens", "stream", "stream_options"}) {
      if (!extra.contains(own)) continue;
      throw base::UsageError(fmt::format("--extra-body: '{}' is set by the bench itself", own));
    }
  }
  if (invocation.has("ignore-eos")) extra["ignore_eos"] = true;
  return extra;
}

Endpoint endpoint_of(const Invocation& invocation) {
  const std::string name = invocation.option("endpoint", "completions");
  if (name == "completions") return Endpoint::kCompletions;
  if (name == "chat") return Endpoint::kChat;
  throw base::UsageError(
      fmt::format("--endpoint '{}': it is completions or chat", base::printable(name)));
}

Prompts prompts_of(const Invocation& invocation, Endpoint endpoint) {
  const NumberRange lengths =
      parse_range("--input-len", invocation.option("input-len", "256"), kLengths);
  const NumberRange ids = parse_range("--token-ids", invocation.option("token-ids", "1000..4000"),
                                      {0, (int64_t{1} << 31) - 1});
  if (invocation.has("prompts")) {
    for (const char* name : {"input-len", "token-ids"}) {
      if (!invocation.has(name)) continue;
      throw base::UsageError(
          fmt::format("--{} is for prompts that are drawn, and --prompts gives "
                      "some; use one of them",
                      name));
    }
    return Prompts::of_file(invocation.option("prompts", ""), endpoint);
  }
  if (endpoint == Endpoint::kChat) {
    throw base::UsageError(
        "--endpoint chat needs --prompts FILE: prompts that are drawn are token "
        "ids, which a chat does not take");
  }
  return Prompts::random(lengths, ids);
}

LoadPlan plan_of(const Invocation& invocation, Endpoint endpoint, const Prompts& prompts) {
  LoadPlan plan;
  plan.endpoint = endpoint;
  plan.requests =
      invocation.integer("requests", prompts.count() > 0 ? prompts.count() : 100, 1, 10'000'000);
  if (invocation.has("rate") && invocation.has("concurrency")) {
    throw base::UsageError("--rate and --concurrency are two kinds of load; use one of them");
  }
  if (invocation.has("rate")) {
    plan.rate = invocation.number("rate", 0, 1e-3, 1e5);
  } else {
    plan.concurrency = invocation.integer("concurrency", kConcurrency, 1, 60'000);
  }
  plan.output_len = parse_range("--output-len", invocation.option("output-len", "64"), kLengths);
  plan.extra = extra_body(invocation);
  plan.timeout = std::chrono::milliseconds(
      static_cast<int64_t>(1e3 * invocation.number("timeout", 600, 0.1, 86'400)));
  plan.seed = static_cast<uint64_t>(invocation.settings.get_int("seed"));
  return plan;
}

/// Every request in flight is a descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

std::vector<CommandOption> bench_serve_options() {
  return {
      {"rate", "X", "serve: requests per second, at the times of a Poisson process (--seed)."},
      {"concurrency", "N", "serve: or so many requests at a time. Default 16."},
      {"prompts", "FILE",
       "serve: a prompt on each line, or a JSON object with \"prompt\" or \"messages\"; all of "
       "them once unless --requests says otherwise. Without it prompts are drawn."},
      {"token-ids", "A..B",
       "serve: prompts are drawn from these token ids. Default 1000..4000, which most "
       "vocabularies have."},
      {"endpoint", "completions|chat", "serve: which of the two. Default completions."},
      {"ignore-eos", "",
       "serve: answers go on to their full length, where the server knows ignore_eos (ours, vLLM "
       "and llama.cpp do)."},
      {"extra-body", "JSON",
       "serve: more members for every request, such as "
       "'{\"temperature\": 0}'."},
      {"api-key", "KEY", "serve: sent as a bearer token."},
      {"header", "'NAME: VALUE'", "serve: one more header field of every request; may be repeated.",
       "", true},
      {"timeout", "SECONDS", "serve: of one request, to the end of its answer. Default 600."},
  };
}

int bench_serve(const Invocation& invocation) {
  refuse_settings(invocation.settings);
  if (invocation.arguments.size() != 1) {
    throw base::UsageError("bench serve which server? 'moesaic bench serve http://HOST:PORT'");
  }
  const ServerUrl url = parse_server_url(invocation.arguments[0]);
  const Endpoint endpoint = endpoint_of(invocation);
  Prompts prompts = prompts_of(invocation, endpoint);
  LoadPlan plan = plan_of(invocation, endpoint, prompts);
  raise_descriptor_limit();
  // The coroutines that an interrupt leaves go with the context, and what they use after it.
  boost::asio::io_context io(1);
  HttpClient client(io, url, headers_of(invocation));
  plan.model = invocation.settings.is_set("model") ? invocation.settings.get_string("model")
                                                   : only_model(io, client, plan.timeout);
  const LoadFigures figures = run_load(io, client, plan, prompts);
  const LoadTitle title{.url = invocation.arguments[0],
                        .model = base::printable(plan.model),
                        .endpoint = endpoint == Endpoint::kChat ? "chat" : "completions",
                        .requests = plan.requests,
                        .concurrency = plan.concurrency,
                        .rate = plan.rate};
  const bool as_json = invocation.has("json");
  std::cout << (as_json ? load_json(title, figures) + "\n" : load_report(title, figures));
  std::cout.flush();
  if (figures.failures.count() > 0) {
    throw base::UnavailableError(
        fmt::format("{} of {} requests failed", figures.failures.count(), plan.requests));
  }
  if (figures.interrupted) {
    throw base::UnavailableError(
        fmt::format("interrupted after {} of {} requests", figures.completed, plan.requests));
  }
  return 0;
}

}  // namespace moesaic::cli
