#include <fmt/format.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "base/model_file.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/dry_run.h"
#include "cli/loaded_model.h"
#include "cli/memory_table.h"
#include "server/server.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

std::string generation_config(const base::ModelFolder& files, const base::Settings& settings) {
  constexpr size_t kMost = size_t{4} << 20;
  const std::string source = settings.get_string("generation-config");
  if (source == "vllm") return "";
  const base::ModelFolder place = source == "auto" ? files : fs::path(source);
  const std::string name = "generation_config.json";
  auto text = place.read(name, kMost);
  if (text && text->empty()) {
    throw base::ModelFileError((place.path() / name).string(), "the file is empty; fetch it again");
  }
  return text.value_or("");
}

/// What /tokenizer_info answers: tokenizer_config.json, which a folder may lack, and the chat
/// template that is used.
std::string tokenizer_info(const base::ModelFolder& files,
                           const text::ChatTemplate* chat_template) {
  constexpr size_t kMost = size_t{32} << 20;
  const std::string name = "tokenizer_config.json";
  const auto text = files.read(name, kMost);
  boost::json::object info;
  if (text) info = checkpoint::parse_json_file(*text, (files.path() / name).string());
  if (!info.contains("tokenizer_class")) info["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (chat_template != nullptr) info["chat_template"] = chat_template->text();
  return boost::json::serialize(info);
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

/// A word for the shell, whatever it holds.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// A request that this model can answer: a conversation, a text for a base model, or token ids.
struct Example {
  const char* path;
  boost::json::object body;
};

Example example_of(const server::ServedModel& model) {
  boost::json::object body{{"model", model.names[0]}};
  if (model.tokenizer && model.chat_template && model.chat_template->problem().empty()) {
    body["messages"] =
        boost::json::array{boost::json::object{{"role", "user"}, {"content", "Hello!"}}};
    return {"/v1/chat/completions", std::move(body)};
  }
  body["prompt"] =
      model.tokenizer ? boost::json::value("Once upon a time") : boost::json::value{1, 2, 3};
  body["max_tokens"] = 32;
  return {"/v1/completions", std::move(body)};
}

/// The header that a key asks for, without the key: it is in the environment already, or the
/// reader has it.
std::string key_header(const base::Settings& settings) {
  if (settings.get_list("api-key").empty()) return "";
  const std::string origin = settings.origin("api-key");
  const bool variable = origin.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == origin.npos;
  const bool several = settings.get_list("api-key").size() > 1;
  return fmt::format(" \\\n    -H \"Authorization: Bearer ${{{}{}}}\"",
                     variable ? origin : "API_KEY", several && variable ? "%%,*" : "");
}

/// Says where the model is served, and how to try it.
void greet(const server::ServedModel& model, const base::Settings& settings, uint16_t port) {
  std::string host = settings.get_string("host");
  if (host == "0.0.0.0" || host.empty()) host = "127.0.0.1";
  if (host == "::") host = "::1";
  if (host.find(':') != std::string::npos) host = "[" + host + "]";
  const std::string address = fmt::format("http://{}:{}", host, port);
  if (base::log_format() == base::LogFormat::kJson) {
    spdlog::info("serving {} at {}", model.names[0], address);
    return;
  }
  const Example example = example_of(model);
  base::print_with_log(
      STDOUT_FILENO,
      fmt::format("\nserving {} at {}\n\n  curl {}{} \\\n    -H 'Content-Type: "
                  "application/json'{} \\\n    -d {}\n\n"
                  "The web page, with the experts at work: {}/\nStop with Ctrl-C.\n",
                  model.names[0], address, address, example.path, key_header(settings),
                  quoted(boost::json::serialize(example.body)), address));
}

server::ServedModel served_model(const LoadedModel& model, const fs::path& path,
                                 const base::Settings& settings) {
  server::ServedModel served;
  served.names = settings.get_list("served-model-name");
  if (served.names.empty()) served.names.push_back(path.string());
  served.root = path.string();
  served.max_model_len = model.max_model_len;
  served.spec = model.spec;
  served.tokenizer = load_tokenizer(model, settings);
  if (served.tokenizer) {
    served.chat_template =
        text::ChatTemplate::load(model.files, settings.get_string("chat-template"));
    if (served.chat_template && !served.chat_template->problem().empty()) {
      spdlog::warn("{}; chats that need it are refused, give another with --chat-template",
                   served.chat_template->problem());
    }
  }
  if (settings.get_bool("enable-tokenizer-info-endpoint")) {
    served.tokenizer_info =
        tokenizer_info(tokenizer_files(model, settings), served.chat_template.get());
  }
  served.generation_config_json = generation_config(model.files, settings);
  server::check_served(settings, served);
  return served;
}

int run_serve(const Invocation& invocation) {
  base::Settings settings = invocation.settings;
  base::init_logging(settings.get_string("log-level"), settings.get_bool("json-output")
                                                           ? base::LogFormat::kJson
                                                           : base::LogFormat::kText);
  if (invocation.has("dry-run")) return dry_run(invocation);
  check_setting_states(settings);
  default_host(settings);
  const fs::path path = model_path(invocation);
  if (settings.get_string("load-format") != "dummy" && !fs::is_directory(path) &&
      !checkpoint::find_gguf(path)) {
    throw base::UsageError(path.string() +
                           " is a file; give the model's folder, or --load-format "
                           "dummy to run its shape with random weights");
  }
  // All that can be refused is, before the weights are read, which can take minutes.
  server::BoundAddress address = server::bind_address(settings);
  const auto model = prepare_model(path, settings, {});
  settings.set("max-inflight-bytes", std::to_string(model->memory.requests), "memory needs");
  const server::ServedModel served = served_model(*model, path, settings);
  load_weights(*model, settings);

  auto metrics = std::make_shared<base::Metrics>(
      base::Metrics::Labels{{"model_name", served.names[0]}, {"engine", "0"}},
      model->max_model_len);
  auto engine = start_engine(*model, settings, server::make_observer(metrics));
  report_memory(*model, *metrics);
  server::Server server(settings, std::move(address), served, engine, metrics);
  greet(served, settings, server.port());
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
