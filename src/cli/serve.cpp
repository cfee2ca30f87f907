#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "base/model_file.h"
#include "cli/commands.h"
#include "cli/dry_run.h"
#include "cli/loaded_model.h"
#include "cli/memory_table.h"
#include "server/server.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

std::string generation_config(const fs::path& folder, const base::Settings& settings) {
  constexpr size_t kMost = size_t{4} << 20;
  const std::string source = settings.get_string("generation-config");
  if (source == "vllm") return "";
  const fs::path place = source == "auto" ? folder : fs::path(source);
  const std::string name = "generation_config.json";
  auto text = base::read_model_file(place, name, kMost);
  if (text && text->empty()) {
    throw base::ModelFileError((place / name).string(), "the file is empty; fetch it again");
  }
  return text.value_or("");
}

/// A pod's probes come to the pod's address, so inside Kubernetes loopback would never be ready.
void default_host(base::Settings& settings) {
  if (settings.is_set("host")) return;
  const bool pod = std::getenv("KUBERNETES_SERVICE_HOST") != nullptr;
  settings.set("host", pod ? "0.0.0.0" : "127.0.0.1", "default");
}

/// Planned against allocated; the server keeps the second up to date in /metrics.
void report_memory(const LoadedModel& model, base::Metrics& metrics) {
  for (const MemoryTerm& term : memory_terms(model.memory)) {
    metrics.set("moesaic:memory_planned_bytes", static_cast<double>(term.planned),
                {{"term", std::string(term.name)}});
  }
  for (const std::string& line : memory_table(model.memory, allocated_terms(model.memory))) {
    spdlog::info("{}", line);
  }
}

void greet(const server::ServedModel& model, const std::string& host, uint16_t port) {
  const std::string address =
      fmt::format("http://{}:{}", host == "0.0.0.0" ? "127.0.0.1" : host, port);
  const bool chat =
      model.tokenizer && model.chat_template && model.chat_template->problem().empty();
  const std::string body =
      chat ? fmt::format(
                 R"({{"model": "{}", "messages": [{{"role": "user", "content": "Hello!"}}]}})",
                 model.names[0])
           : fmt::format(R"({{"model": "{}", "prompt": [1, 2, 3], "max_tokens": 8}})",
                         model.names[0]);
  base::print_with_log(
      STDOUT_FILENO, fmt::format("\nserving {} at {}\n\n  curl {}/v1/{} \\\n    -H 'Content-Type: "
                                 "application/json' \\\n    -d '{}'\n\n"
                                 "The web page, with the experts at work: {}/\nStop with Ctrl-C.\n",
                                 model.names[0], address, address,
                                 chat ? "chat/completions" : "completions", body, address));
}

int run_serve(const Invocation& invocation) {
  base::Settings settings = invocation.settings;
  base::init_logging(settings.get_string("log-level"));
  if (invocation.has("dry-run")) return dry_run(invocation);
  check_setting_states(settings);
  default_host(settings);
  const fs::path path = model_path(invocation);
  if (settings.get_string("load-format") != "dummy" && !fs::is_directory(path)) {
    throw base::UsageError(path.string() +
                           " is a file; give the model's folder, or --load-format "
                           "dummy to run its shape with random weights");
  }
  const auto model = load_model(path, settings, {});

  settings.set("max-inflight-bytes", std::to_string(model->memory.requests), "memory plan");

  server::ServedModel served;
  served.names = settings.get_list("served-model-name");
  if (served.names.empty()) served.names.push_back(path.string());
  served.root = path.string();
  served.max_model_len = model->max_model_len;
  served.spec = model->spec;
  served.tokenizer = load_tokenizer(*model, settings);
  if (served.tokenizer) {
    served.chat_template =
        text::ChatTemplate::load(model->folder, settings.get_string("chat-template"));
    if (served.chat_template && !served.chat_template->problem().empty()) {
      spdlog::warn("{}; chats that need it are refused, give another with --chat-template",
                   served.chat_template->problem());
    }
  }
  served.generation_config_json = generation_config(model->folder, settings);

  auto metrics = std::make_shared<base::Metrics>(
      base::Metrics::Labels{{"model_name", served.names[0]}, {"engine", "0"}},
      model->max_model_len);
  auto engine = start_engine(*model, settings, server::make_observer(metrics));
  report_memory(*model, *metrics);
  server::Server server(settings, served, engine, metrics);
  greet(served, settings.get_string("host"), server.port());
  server.run();
  return 0;
}

}  // namespace

Command serve_command() {
  return {
      "serve",
      "MODEL",
      "Serve a model over the OpenAI protocol, with metrics and a web page.",
      "MODEL is a folder in Hugging Face layout: config.json, safetensors, tokenizer.json. With "
      "--load-format dummy a config.json is enough.\n"
      "SIGTERM or Ctrl-C lets running requests end, then exits 0; a second one ends at once.",
      {{"dry-run", "",
        "Say what becomes of every setting and what memory the model takes, and exit; needs no "
        "weights and no network. Exits 64 or 78 where a real start would for what is written, 0 "
        "also where it would refuse a feature that comes later."}},
      {"*"},
      run_serve};
}

}  // namespace moesaic::cli
