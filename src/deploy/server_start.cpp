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
  static const std::string kLaunchers[] = {
      "tini",   "dumb-init", "init", "catatonit", "env",     "sudo",   "nohup",
      "time",   "uv",        "uvx",  "conda",     "poetry",  "nice",   "ionice",
      "stdbuf", "numactl",   "nsys", "taskset",   "timeout", "setsid", "gosu"};
  const std::string name = basename(word);
  return std::find(std::begin(kLaunchers), std::end(kLaunchers), name) != std::end(kLaunchers);
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
    const bool module =
        words[i] == "-m" && i + 1 < words.size() && words[i + 1].starts_with("vllm.entrypoints");
    const bool script = basename(words[i]) == "api_server.py";
    if (!module && !script) continue;
    found.engine = Engine::kVllm;
    found.arguments = rest(words, module ? i + 2 : i + 1);
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

/// What the image starts when the manifest names no command.
std::optional<Engine> image_server(const std::string& image) {
  if (contains(image, "text-generation-inference") || contains(image, "neuronx-tgi") ||
      contains(image, "tgi-inference")) {
    return Engine::kTgi;
  }
  if (contains(image, "vllm")) return Engine::kVllm;
  return std::nullopt;
}

}  // namespace

std::optional<ServerStart> find_server(const std::vector<std::string>& command,
                                       const std::vector<std::string>& args,
                                       const std::string& image,
                                       const std::map<std::string, std::string>& environment) {
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
  if (!words.empty()) {
    if (auto found = Finder(environment).look(words)) return found;
  }
  const std::string name = basename(image);
  if (command.empty() && name.starts_with("moesaic") && !words.empty() && words[0] == "serve") {
    ServerStart start;
    start.engine = Engine::kMoesaic;
    start.arguments = rest(words, 1);
    return start;
  }
  // A command of somebody's own in such an image, tgi-entrypoint.sh say, passes its arguments on.
  const std::optional<Engine> engine = image_server(image);
  if (!engine) return std::nullopt;
  const bool own = !command.empty();
  if (own && !contains(basename(command[0]), "entrypoint")) return std::nullopt;
  ServerStart start;
  start.engine = *engine;
  start.arguments = rest(words, command.size());
  return start;
}

std::string_view servers_looked_for() {
  return "'vllm serve', 'python -m vllm.entrypoints...', 'text-generation-launcher' or 'moesaic "
         "serve' as a container's command, args or shell script, or an image of vLLM or "
         "text-generation-inference";
}

}  // namespace moesaic::deploy
