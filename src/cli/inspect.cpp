#include <fmt/format.h>

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <iostream>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "model/family.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

struct Part {
  const char* key;
  const char* title;
  int64_t parameters;
};

std::vector<Part> parts_of(const model::ParameterCount& count) {
  return {{"embeddings", "embeddings and head", count.embeddings},
          {"attention", "attention", count.attention},
          {"norms", "norms", count.norms},
          {"routers", "routers", count.routers},
          {"dense_ffn", "dense FFN", count.dense_ffn},
          {"shared_experts", "shared experts", count.shared_experts},
          {"experts", "routed experts", count.experts},
          {"encoder", "image encoder", count.encoder}};
}

std::string billions(int64_t parameters) {
  return parameters >= 100'000'000 ? fmt::format("{:.2f} B", static_cast<double>(parameters) / 1e9)
                                   : fmt::format("{:.2f} M", static_cast<double>(parameters) / 1e6);
}

std::string describe_attention(const model::AttentionSpec& attention) {
  if (attention.kind == model::AttentionKind::kNone) return "none";
  if (attention.kind == model::AttentionKind::kRecurrent) {
    return fmt::format("recurrent, {} heads or channels, a state of {} values",
                       attention.recurrent.heads, attention.recurrent.state);
  }
  if (attention.kind == model::AttentionKind::kMla) {
    return fmt::format("{} heads of {}, latent of {} + {} cached a token", attention.heads,
                       attention.head_dim, attention.latent.kv_rank, attention.latent.rope_dim);
  }
  return fmt::format(
      "{} heads of {}, {} KV heads{}", attention.heads, attention.head_dim, attention.kv_heads,
      attention.sliding_window > 0 ? fmt::format(", window {}", attention.sliding_window) : "");
}

std::string describe_ffn(const model::FfnSpec& ffn) {
  if (ffn.empty()) return "none";
  if (!ffn.moe) return fmt::format("dense FFN of width {}", ffn.width);
  std::string text =
      fmt::format("{} experts of width {}, top {}", ffn.experts, ffn.width, ffn.router.top_k);
  if (ffn.shared_width > 0) text += fmt::format(", shared expert of width {}", ffn.shared_width);
  return text;
}

/// Distinct layer shapes, each with how many layers have it, in order of first use.
template <typename Describe>
std::vector<std::pair<std::string, int>> kinds_of(const model::ModelSpec& spec,
                                                  const Describe& describe) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const model::LayerSpec& layer : spec.layers) {
    const std::string text = describe(layer);
    auto found = std::find_if(kinds.begin(), kinds.end(),
                              [&](const auto& kind) { return kind.first == text; });
    if (found == kinds.end()) {
      kinds.emplace_back(text, 1);
    } else {
      ++found->second;
    }
  }
  return kinds;
}

boost::json::object as_json(const model::ModelSpec& spec, const model::ParameterCount& count,
                            const std::vector<checkpoint::TensorEntry>* tensors) {
  boost::json::object root;
  root["architecture"] = spec.architecture;
  root["family"] = spec.family;
  root["total_params"] = count.total;
  root["active_params"] = count.active;
  root["dtype"] = tensor::to_string(spec.dtype);
  root["layers"] = spec.layers.size();
  root["moe_layers"] = spec.moe_layers();
  root["hidden_size"] = spec.hidden;
  root["vocab_size"] = spec.vocab_size;
  root["max_position_embeddings"] = spec.max_position;
  root["can_serve"] = spec.not_served.empty();
  root["stored_as"] = spec.quantization.stored_as();
  root["experts"] = spec.max_experts();
  root["experts_per_token"] = spec.max_top_k();
  boost::json::object bytes;
  boost::json::object params;
  const auto element = static_cast<int64_t>(tensor::size_of(spec.dtype));
  for (const Part& part : parts_of(count)) {
    params[part.key] = part.parameters;
    bytes[part.key] = part.parameters * element;
  }
  root["params"] = params;
  root["bytes"] = bytes;
  root["weights_bytes"] = count.total * element;
  if (tensors != nullptr) {
    boost::json::array list;
    for (const checkpoint::TensorEntry& entry : *tensors) {
      const tensor::Shape sizes = entry.shape();
      boost::json::array shape(sizes.begin(), sizes.end());
      list.push_back({{"name", entry.name},
                      {"dtype", entry.type_name()},
                      {"shape", shape},
                      {"file", fs::path(entry.file).filename().string()}});
    }
    root["tensors"] = list;
  }
  return root;
}

void print_text(const model::ModelSpec& spec, const model::ParameterCount& count) {
  fmt::print("{} ({})\n", spec.architecture, spec.family);
  fmt::print("  parameters   {} in all, {} active for a token\n", billions(count.total),
             billions(count.active));
  fmt::print("  layers       {}, hidden size {}, vocabulary {}\n", spec.layers.size(), spec.hidden,
             spec.vocab_size);
  for (const auto& [text, layers] :
       kinds_of(spec, [](const auto& layer) { return describe_attention(layer.attention); })) {
    fmt::print("  {:<12} {} in {} layers\n", "attention", text, layers);
  }
  for (const auto& [text, layers] :
       kinds_of(spec, [](const auto& layer) { return describe_ffn(layer.ffn); })) {
    fmt::print("  {:<12} {} in {} layers\n", "FFN", text, layers);
  }
  fmt::print("  context      {} positions, rope theta {}\n", spec.max_position, spec.rope.theta);
  if (const std::string stored = spec.quantization.stored_as(); !stored.empty()) {
    fmt::print("  stored as    {}\n", stored);
  }
  if (!spec.not_served.empty()) {
    fmt::print("  serve        not yet: {}\n", spec.not_served);
  }
  const auto element = static_cast<double>(tensor::size_of(spec.dtype));
  fmt::print("\n{:<22}{:>12}{:>14}{:>8}\n", "part", "parameters",
             fmt::format("{} GiB", tensor::to_string(spec.dtype)), "share");
  for (const Part& part : parts_of(count)) {
    if (part.parameters == 0) continue;
    fmt::print("{:<22}{:>12}{:>14.3f}{:>7.1f}%\n", part.title, billions(part.parameters),
               static_cast<double>(part.parameters) * element / (1 << 30),
               100.0 * static_cast<double>(part.parameters) / static_cast<double>(count.total));
  }
  fmt::print("{:<22}{:>12}{:>14.3f}\n", "all", billions(count.total),
             static_cast<double>(count.total) * element / (1 << 30));
}

void print_tensors(const std::vector<checkpoint::TensorEntry>& tensors) {
  fmt::print("\n{} tensors\n", tensors.size());
  for (const checkpoint::TensorEntry& entry : tensors) {
    fmt::print("  {}  {} [{}]\n", entry.name, entry.type_name(), fmt::join(entry.shape(), ", "));
  }
}

int run_inspect(const Invocation& invocation) {
  const fs::path path = model_path(invocation);
  const model::ModelSpec spec = model::load_spec(path, {}, model::Purpose::kPlan);
  const model::ParameterCount count = model::count_parameters(spec);
  std::optional<checkpoint::Checkpoint> checkpoint;
  const auto has = [&](const char* name) {
    std::error_code error;
    return fs::symlink_status(path / name, error).type() != fs::file_type::not_found;
  };
  const bool has_weights =
      checkpoint::find_gguf(path) ||
      (fs::is_directory(path) && (has("model.safetensors") || has("model.safetensors.index.json")));
  if (has_weights) checkpoint.emplace(checkpoint::Checkpoint::open(path));
  if (invocation.has("tensors") && !checkpoint) {
    throw base::MissingFileError(path.string() + " has no safetensors or GGUF files to list");
  }
  const auto* tensors = invocation.has("tensors") ? &checkpoint->tensors() : nullptr;
  if (invocation.has("json")) {
    std::cout << boost::json::serialize(as_json(spec, count, tensors)) << "\n";
    return 0;
  }
  print_text(spec, count);
  if (checkpoint) {
    fmt::print("\ncheckpoint: {} tensors, {:.3f} GiB\n", checkpoint->tensors().size(),
               static_cast<double>(checkpoint->total_bytes()) / (1 << 30));
  }
  if (tensors != nullptr) print_tensors(*tensors);
  return 0;
}

}  // namespace

Command inspect_command() {
  return {"inspect",
          "MODEL",
          "Say what a model is: architecture, parameters total and active, bytes by part.",
          "MODEL is a folder, a GGUF file, or a config.json; weights are not needed. Counted from "
          "the config tensor by tensor.",
          {{"json", "", "Print one JSON object (total_params, active_params, bytes, ...)."},
           {"tensors", "", "List the checkpoint's tensors too."}},
          {},
          run_inspect};
}

}  // namespace moesaic::cli
