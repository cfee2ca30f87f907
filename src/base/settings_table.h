#pragma once

// Of the settings alone: the parts of the table, each in a file of its own, and how its columns are
// read. Code outside reads setting_rows().

#include "base/settings.h"

namespace moesaic::base {

/// Headings of --help and of docs/flags.md, in their order there.
namespace setting_groups {
inline constexpr std::string_view kModel = "Model";
inline constexpr std::string_view kCpu = "CPU";
inline constexpr std::string_view kMemory = "Memory and KV cache";
inline constexpr std::string_view kScheduling = "Scheduling";
inline constexpr std::string_view kServer = "Server";
inline constexpr std::string_view kLimits = "Limits and deadlines";
inline constexpr std::string_view kProtocol = "Protocol";
inline constexpr std::string_view kLogging = "Logging";
inline constexpr std::string_view kParallel = "Parallel ranks";
inline constexpr std::string_view kLora = "LoRA";
inline constexpr std::string_view kSpeculation = "Speculation and structured output";
inline constexpr std::string_view kGpu = "GPU runtime";
inline constexpr std::string_view kMedia = "Images, audio and video";
inline constexpr std::string_view kMamba = "Mamba layers";
inline constexpr std::string_view kTransfer = "Transfer between instances";
inline constexpr std::string_view kNeuron = "Neuron";
inline constexpr std::string_view kAll[] = {
    kModel,    kCpu,  kMemory,      kScheduling, kServer, kLimits, kProtocol, kLogging,
    kParallel, kLora, kSpeculation, kGpu,        kMedia,  kMamba,  kTransfer, kNeuron};
}  // namespace setting_groups

/// The parts of the table.
std::span<const SettingRow> engine_rows();
std::span<const SettingRow> server_rows();
std::span<const SettingRow> others_rows();  ///< here for the sake of other servers alone

/// The parts of `text` between separators, as the table's columns hold lists; none of "".
std::vector<std::string_view> split(std::string_view text, char separator);

}  // namespace moesaic::base
