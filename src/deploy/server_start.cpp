#include "deploy/server_start.h"

#include <algorithm>

#include "deploy/shell_words.h"

namespace moesaic::deploy {
namespace {

using Words = std::vector<std::string>;

std::string basename(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// The shell's own words before a command.
bool is_shell_word(const std::string& word) {
  static const std::string kWords[] = {"exec", "then", "else", "do",    "--",
                                       "!",    "{",    "if",   "export"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

/// Programs that start the one named after their own options.
bool is_launcher(const std::string& word) {
  static const std::string kLaunchers[] = {"tini",
                                           "dumb-init",
                                           "init",
                                           "catatonit",
                                           "env",
                                           "sudo",
                                           "nohup",
                                           "time",
                                           "uv",
                                           "uvx",
                                           "conda",
                                           "poetry",
                                           "nice",
                                           "ionice",
                                           "stdbuf",
                                           "numactl",
                                           "nsys",
                                           "taskset",
                                           "timeout",
                                           "setsid",
                                           "gosu",
                                           "su-exec",
                                           "mpirun",
                                           "ddtrace-run",
                                           "opentelemetry-instrument",
                                           "neuron_parallel_compile"};
  const std::string name = basename(word);
  // An image's own entry point, nvidia_entrypoint.sh say, starts what follows it.
  return std::find(std::begin(kLaunchers), std::end(kLaunchers), name) != std::end(kLaunchers) ||
         contains(name, "entrypoint");
}

/// Words of a launcher and its options before the program that it starts.
constexpr size_t kLauncherWords = 16;

bool is_shell(const std::string& word) {
  const std::string name = basename(word);
  return name == "sh" || name == "bash" || name == "dash" || name == "ash" || name == "zsh";
}

Words rest(const Words& words, size_t from) {
  return {words.begin() + static_cast<std::ptrdiff_t>(std::min(from, words.size())), words.end()};
}

std::optional<ServerStart> match(const Words& words, ServerStart found) {
  const std::string program = basename(words[0]);
  if (program == "vllm" && words.size() > 1 && words[1] == "serve") {
    found.engine = Engine::kVllm;
    found.arguments = rest(words, 2);
    return found;
  }
  if (program == "moesaic" && words.size() > 1 && words[1] == "serve") {
    found.engine = Engine::kMoesaic;
    found.arguments = rest(words, 2);
    return found;
  }
  if (program == "text-generation-launcher") {
    found.engine = Engine::kTgi;
    found.arguments = rest(words, 1);
    return found;
  }
  if (!program.starts_with("python")) return std::nullopt;
  for (size_t i = 1; i < words.size(); ++i) {
    const bool module = words[i] == "-m" && i + 1 < words.size();
    const std::string& name = module ? words[i + 1] : words[i];
    Words arguments = rest(words, module ? i + 2 : i + 1);
    // vLLM's command line as a module: vllm.entrypoints.cli.main serve MODEL.
    const bool command_line =
        module && name.starts_with("vllm.") && !arguments.empty() && arguments[0] == "serve";
    if (command_line) arguments = rest(arguments, 1);
    const bool server = module ? name.starts_with("vllm") && name.ends_with("api_server")
                               : basename(name) == "api_server.py";
    if (!server && !command_line) continue;
    found.engine = Engine::kVllm;
    found.arguments = std::move(arguments);
    return found;
  }
  return std::nullopt;
}

class Finder {
 public:
  explicit Finder(const std::map<std::string, std::string>& environment)
      : environment_(environment) {}

  std::optional<ServerStart> look(const Words& words, int depth = 0) {
    bool launched = false;
    size_t left = 1;  // words that may still be the server's program
    for (size_t i = 0; i < words.size() && left > 0; ++i) {
      const std::string& word = words[i];
      if (is_assignment(word)) {
        const size_t equals = word.find('=');
        found_.assignments[word.substr(0, equals)] = word.substr(equals + 1);
        continue;
      }
      if (is_shell_word(word)) continue;
      const Words from = rest(words, i);
      auto found = is_shell(word) && depth < 4 ? look_in_script(from, depth) : match(from, found_);
      if (found) return found;
      if (!launched && is_launcher(word)) {
        launched = true;
        left = kLauncherWords;
      }
      --left;
    }
    return std::nullopt;
  }

 private:
  std::optional<ServerStart> look_in_script(const Words& command, int depth) {
    // -c, -ec, -lc, or -e -u -c: the word after them is the script.
    bool takes_script = false;
    size_t at = 1;
    for (; at < command.size() && command[at].starts_with('-'); ++at) {
      takes_script |= !command[at].starts_with("--") && contains(command[at], "c");
    }
    if (!takes_script || at >= command.size()) return std::nullopt;
    const auto variables = [this](const std::string& name) -> std::optional<std::string> {
      if (const auto set = found_.assignments.find(name); set != found_.assignments.end()) {
        return set->second;
      }
      const auto given = environment_.find(name);
      return given == environment_.end() ? std::nullopt : std::optional(given->second);
    };
    std::optional<ServerStart> result;
    const std::vector<Words> commands = shell_commands(command[at], variables);
    for (const Words& words : commands) {
      for (const std::string& word : words) check_expanded(expanded_ += word.size());
    }
    for (const Words& words : commands) {
      if (!result) {
        result = look(words, depth + 1);
        if (result) continue;
      }
      std::string text;
      for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
      // Assignments were taken, and the shell's own words do nothing for us.
      const bool assigns =
          words[0] == "export" || std::all_of(words.begin(), words.end(), is_assignment);
      const bool quiet = assigns || words[0] == "set" || words[0] == "fi" || words[0] == "done" ||
                         words[0] == "cd" || words[0] == "echo";
      if (!quiet) others_.push_back(text);
    }
    if (result) result->other_commands = others_;
    return result;
  }

  const std::map<std::string, std::string>& environment_;
  ServerStart found_;
  std::vector<std::string> others_;
  size_t expanded_ = 0;  ///< bytes of all scripts' words
};

/// The last part of an image's name, without registry, tag and digest.
std::string image_name(const std::string& image) {
  const std::string name = basename(image.substr(0, image.find('@')));
  return name.substr(0, name.find(':'));
}

/// What the image starts when the manifest names no command.
std::optional<Engine> image_server(const std::string& image) {
  if (contains(image, "text-generation-inference") || contains(image, "neuronx-tgi") ||
      contains(image, "tgi-inference")) {
    return Engine::kTgi;
  }
  if (contains(image_name(image), "vllm")) return Engine::kVllm;
  return std::nullopt;
}

/// Whether words for vLLM's entry point name a model: routers and exporters have images with "vllm"
/// in their names too.
bool names_model(const Words& words, const std::map<std::string, std::string>& environment) {
  static const std::string kOthers[] = {"bench", "chat", "collect-env", "complete", "run-batch"};
  if (!words.empty() &&
      std::find(std::begin(kOthers), std::end(kOthers), words[0]) != std::end(kOthers)) {
    return false;
  }
  // vLLM has no such variable; whoever sets it has a start of their own that `serve` understands.
  if (environment.contains("MODEL_ID")) return true;
  if (words.empty()) return false;
  return !words[0].starts_with('-') ||
         std::any_of(words.begin(), words.end(), [](const auto& word) {
           const std::string flag = word.substr(0, word.find('='));
           return flag == "--model" || flag == "--config";
         });
}

}  // namespace

bool is_server_image(const std::string& image) { return image_server(image).has_value(); }

std::optional<ServerStart> find_server(const std::vector<std::string>& command,
                                       const std::vector<std::string>& args,
                                       const std::string& image,
                                       const std::map<std::string, std::string>& environment,
                                       bool by_image) {
  const auto variables = [&](const std::string& name) -> std::optional<std::string> {
    const auto given = environment.find(name);
    return given == environment.end() ? std::nullopt : std::optional(given->second);
  };
  Words words;
  size_t expanded = 0;
  for (const Words& part : {command, args}) {
    for (const std::string& word : part) {
      words.push_back(expand_references(word, variables));
      check_expanded(expanded += words.back().size());
    }
  }
  if (!by_image) return words.empty() ? std::nullopt : Finder(environment).look(words);
  ServerStart start;
  if (command.empty() && image_name(image).starts_with("moesaic") && !words.empty() &&
      words[0] == "serve") {
    start.engine = Engine::kMoesaic;
    start.arguments = rest(words, 1);
    return start;
  }
  // A command of somebody's own in such an image, tgi-entrypoint.sh say, passes its arguments on.
  const std::optional<Engine> engine = image_server(image);
  if (!engine) return std::nullopt;
  const bool own = !command.empty();
  if (own && !contains(basename(command[0]), "entrypoint")) return std::nullopt;
  start.engine = *engine;
  start.arguments = rest(words, command.size());
  if (*engine == Engine::kVllm && !start.arguments.empty() && start.arguments[0] == "serve") {
    start.arguments.erase(start.arguments.begin());
  }
  if (*engine == Engine::kVllm && !names_model(start.arguments, environment)) return std::nullopt;
  return start;
}

std::string_view servers_looked_for() {
  return "'vllm serve', 'python -m vllm...api_server', 'text-generation-launcher' or 'moesaic "
         "serve' as a container's command, args or shell script, or an image of vLLM or "
         "text-generation-inference with a model among its arguments";
}

}  // namespace moesaic::deploy
