#pragma once

// The commands in a container's `sh -c` script, as far as an inference server's start needs it:
// quotes, escapes, continued lines, comments, variables, and the operators between commands.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::deploy {

/// The value of a variable; none when only the cluster knows it.
using Variables = std::function<std::optional<std::string>(const std::string&)>;

/// Variables may name variables ten times each: what they expand to has a bound.
constexpr size_t kMaxExpandedText = size_t{4} << 20;

/// Throws UsageError when `bytes` are beyond the bound.
void check_expanded(size_t bytes);

/// The simple commands of `script`, in order, as words. A variable without a known value becomes
/// $(NAME), which Kubernetes fills in; outside quotes the value's spaces part words; `${NAME:-x}`
/// falls back to x. A command substitution stays as it is written. An unclosed quote ends with the
/// text. Throws UsageError beyond kMaxExpandedText.
std::vector<std::vector<std::string>> shell_commands(std::string_view script,
                                                     const Variables& variables);

/// Whether the word is "NAME=value", which sets a variable where it stands before a command.
bool is_assignment(const std::string& word);

/// `text` with Kubernetes' own $(NAME) replaced where the value is known.
std::string expand_references(std::string_view text, const Variables& variables);

}  // namespace moesaic::deploy
