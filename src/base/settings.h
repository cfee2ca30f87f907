#pragma once

// Settings are a table: one row each, read by the command line, the environment, a --config file,
// --help, docs/flags.md and the tests. Code asks for values by the row's name.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::base {

enum class SettingType : uint8_t { kBool, kInt, kFloat, kString, kStringList, kJson };

/// Where a setting stands.
enum class SettingState : uint8_t {
  kActive,  ///< does what its help says
  kNoop,    ///< accepted, without meaning here; the log says why
  kLater,   ///< known, its feature does not exist yet; a real start refuses it
};

struct SettingRow {
  std::string_view name;  ///< "max-num-seqs"; the flag is "--" + name
  SettingType type;
  std::string_view fallback;  ///< default as text; "" = unset
  std::string_view range;     ///< "1..65536", "0..16M", "a|b|c" or ""
  std::string_view group;     ///< heading in --help and docs/flags.md
  std::string_view aliases;   ///< other flags, comma-separated: "-tp,--tp-size"
  std::string_view env;       ///< environment names, comma-separated, first wins
  SettingState state;
  std::string_view help;        ///< one sentence; for kNoop and kLater what that means
  std::string_view works = {};  ///< of an active row, the values that work today; "" = all
  std::string_view later = {};  ///< one sentence on the others: what they wait for
};

/// All rows, in the order of --help.
std::span<const SettingRow> setting_rows();
/// The row of that name; null if there is none.
const SettingRow* find_setting(std::string_view name);

/// Values after command line > environment > config file > default.
class Settings {
 public:
  /// All defaults.
  Settings();

  /// Validates `text` against the row's type and range and stores it. Integers take the suffixes
  /// k, m, g, t (1000) and K, M, G, T (1024). Throws UsageError naming `origin` ("--max-num-seqs",
  /// "NUM_SHARD") and what is allowed. "" and "None" unset a row that has no default, as in vLLM.
  void set(std::string_view name, std::string_view text, const std::string& origin);

  /// Applies environment variables named by rows that are not set yet. Ignores empty ones and
  /// those that Kubernetes service links inject ("tcp://...").
  void apply_environment(const std::function<const char*(const char*)>& getenv);

  bool is_set(std::string_view name) const;  ///< given by somebody, not the default
  std::string origin(std::string_view name) const;

  bool get_bool(std::string_view name) const;
  int64_t get_int(std::string_view name) const;
  double get_float(std::string_view name) const;
  std::string get_string(std::string_view name) const;
  std::vector<std::string> get_list(std::string_view name) const;

  /// Names of rows that somebody set, in table order.
  std::vector<std::string> set_names() const;
  /// The value as it was written.
  const std::string& text(std::string_view name) const;

 private:
  struct Value {
    std::string text;
    std::string origin;  ///< empty = default
  };
  const Value& value(std::string_view name, SettingType type) const;
  std::map<std::string, Value, std::less<>> values_;
};

/// "2048", "2k" (2000), "2K" (2048), "25.6k"; -1 for "auto"; empty when it is none of these.
std::optional<int64_t> parse_integer(std::string_view text);

/// What becomes of a setting that somebody set.
enum class SettingFate : uint8_t {
  kKept,      ///< does what it says, or says what happens anyway
  kNoEffect,  ///< accepted, without meaning here
  kLater,     ///< its feature does not exist yet; a real start refuses it
};

struct SettingReport {
  SettingFate fate = SettingFate::kKept;
  /// "--max-num-seqs 64", "NUM_SHARD=2: More than one rank comes later.": the setting as it was
  /// written and, unless it is kept, why not. Keys and tokens are not shown.
  std::string line;
};

/// The one place that says what becomes of a setting: --dry-run prints the line, a real start
/// refuses with it.
SettingReport report_setting(const Settings& settings, std::string_view name);

/// Whether Kubernetes service links made this value: "tcp://10.0.0.1:8000".
bool is_service_link(std::string_view value);

/// Variables that look meant for a model server and that no row reads, service links left out.
/// `environment` holds "NAME=value" entries, as environ does.
std::vector<std::string> unread_environment(std::span<const std::string> environment);

/// docs/flags.md, generated from the table.
std::string settings_markdown();

}  // namespace moesaic::base
