#include <fmt/format.h>

#include <iostream>
#include <map>

#include "base/error.h"
#include "cli/commands.h"

// The shells ask the program itself what can come next, so that no list of flags has to be kept
// true: `moesaic completion words -- WORD...` prints one candidate a line.

namespace moesaic::cli {
namespace {

constexpr const char* kBash = R"sh(_moesaic() {
  local IFS=$'\n'
  COMPREPLY=($(moesaic completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _moesaic moesaic
)sh";

constexpr const char* kZsh = R"sh(#compdef moesaic
_moesaic() {
  local -a found
  found=(${(f)"$(moesaic completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( $#found )); then compadd -a found; else _files; fi
}
compdef _moesaic moesaic
)sh";

constexpr const char* kFish = R"sh(function _moesaic
  set -l words (commandline -opc) (commandline -ct)
  moesaic completion words -- $words[2..] 2>/dev/null
end
complete -c moesaic -a '(_moesaic)'
)sh";

const std::map<std::string, const char*>& scripts() {
  static const std::map<std::string, const char*> kScripts = {
      {"bash", kBash}, {"zsh", kZsh}, {"fish", kFish}};
  return kScripts;
}

/// bash takes "--flag=value" for three words; as one they mean what they do elsewhere.
std::vector<std::string> joined(std::vector<std::string> words, bool& split) {
  std::vector<std::string> out;
  for (size_t i = 0; i < words.size(); ++i) {
    const bool equals = words[i] == "=" && !out.empty() && out.back().starts_with("--");
    if (!equals) {
      out.push_back(words[i]);
      continue;
    }
    out.back() += "=";
    if (i + 1 < words.size()) out.back() += words[++i];
    split = i + 1 == words.size();
  }
  return out;
}

std::vector<std::string> candidates(const std::vector<std::string>& words) {
  if (words.size() <= 1 || (words.size() == 2 && words[0] == "help")) {
    std::vector<std::string> names{"help"};
    for (const Command& command : commands()) names.emplace_back(command.name);
    std::erase_if(names, [&](const std::string& name) {
      return !words.empty() && !name.starts_with(words.back());
    });
    return names;
  }
  bool split = false;
  std::vector<std::string> rest = joined({words.begin() + 1, words.end()}, split);
  std::vector<std::string> found = completions(find_command(words[0]), rest);
  if (split) {
    for (std::string& word : found) word.erase(0, word.find('=') + 1);
  }
  return found;
}

int run_completion(const Invocation& invocation) {
  const std::vector<std::string>& arguments = invocation.arguments;
  if (!arguments.empty() && arguments[0] == "words") {
    for (const std::string& word : candidates({arguments.begin() + 1, arguments.end()})) {
      std::cout << word << "\n";
    }
    return 0;
  }
  const auto script = arguments.size() == 1 ? scripts().find(arguments[0]) : scripts().end();
  if (script == scripts().end()) throw base::UsageError("completion takes bash, zsh or fish");
  std::cout << script->second;
  return 0;
}

}  // namespace

Command completion_command() {
  return {"completion",
          "bash|zsh|fish",
          "Print what makes the shell complete commands, flags and values.",
          "For bash: moesaic completion bash > "
          "~/.local/share/bash-completion/completions/moesaic",
          {},
          {},
          run_completion};
}

}  // namespace moesaic::cli
