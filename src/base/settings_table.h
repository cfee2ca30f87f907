#pragma once

// Of the settings alone: the parts of the table, each in a file of its own, and how its columns are
// read. Code outside reads setting_rows().

#include "base/settings.h"

namespace moesaic::base {

std::span<const SettingRow> engine_rows();
std::span<const SettingRow> server_rows();
std::span<const SettingRow> parallel_rows();
std::span<const SettingRow> device_rows();

/// The parts of `text` between separators, as the table's columns hold lists; none of "".
std::vector<std::string_view> split(std::string_view text, char separator);

}  // namespace moesaic::base
