// Models in GGUF files: the golden checkpoints written as such must give the tokens that
// transformers gave for the originals.

#include "model/gguf_model.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <span>

#include <boost/json/array.hpp>

#include "base/error.h"
#include "checkpoint/gguf_testing.h"
#include "model/golden_testing.h"
#include "model/loader_testing.h"

namespace moesaic::model::testing {
namespace {

namespace json = boost::json;
using checkpoint::Checkpoint;
using checkpoint::TensorEntry;
using checkpoint::testing::GgufWriter;
using checkpoint::testing::TempFolder;
using golden::backend_names;
using golden::checkpoints;
using golden::Produced;
using golden::Prompt;
using golden::read_prompts;
using golden::Runner;
using golden::Tokens;
using tensor::DType;

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  return at == text.npos ? text : text.replace(at, from.size(), to);
}

/// How a golden is written as a GGUF file.
struct Style {
  const char* golden;
  const char* architecture;
  bool paired = false;    ///< rows of q and k as rope's pairs
  bool split = false;     ///< a tensor for each expert, as older files have them
  bool merged = false;    ///< gate and up of all experts in one tensor
  bool blocks = false;    ///< what can be is Q8_0
  bool mixed = false;     ///< v is Q4_0 instead
  bool rounded = false;   ///< F32 of what the blocks would have been
  bool minimal = false;   ///< keys that older files lack are left out
  bool windowed = false;  ///< the original has a window, which GGUF files of it do not
};

/// A checkpoint folder as one GGUF file: names, order of rows and keys as llama.cpp's converter
/// writes them.
class Converter {
 public:
  Converter(const std::filesystem::path& folder, const Style& style)
      : style_(style),
        config_(checkpoint::read_json_file(folder, "config.json", size_t{1} << 20).value()),
        checkpoint_(Checkpoint::open(folder)) {}

  std::string write() {
    keys();
    for (const TensorEntry& entry : checkpoint_.tensors()) tensor(entry);
    for (const auto& [name, stack] : stacks_) {
      add(name, {stack.count, stack.rows, stack.cols}, stack.values);
    }
    return writer_.bytes();
  }

 private:
  struct Stack {
    int64_t count = 0, rows = 0, cols = 0;
    std::vector<float> values;
  };

  uint32_t number(const char* key) const {
    return static_cast<uint32_t>(config_.at(key).to_number<int64_t>());
  }
  std::string key(const std::string& name) const { return style_.architecture + ("." + name); }
  void copy(const char* from, const char* to) {
    if (config_.contains(from) && !config_.at(from).is_null())
      writer_.add_u32(key(to), number(from));
  }

  void keys() {
    writer_.add_string("general.architecture", style_.architecture);
    copy("num_hidden_layers", "block_count");
    copy("max_position_embeddings", "context_length");
    copy("hidden_size", "embedding_length");
    copy("intermediate_size", "feed_forward_length");
    copy("num_attention_heads", "attention.head_count");
    copy("num_key_value_heads", "attention.head_count_kv");
    copy("num_experts_per_tok", "expert_used_count");
    copy(config_.contains("num_experts") ? "num_experts" : "num_local_experts", "expert_count");
    copy("head_dim", "attention.key_length");
    copy("head_dim", "attention.value_length");
    if (std::string_view(style_.architecture) == "llama") {
      copy("sliding_window", "attention.sliding_window");
    }
    if (!style_.minimal) {
      copy("moe_intermediate_size", "expert_feed_forward_length");
      copy("shared_expert_intermediate_size", "expert_shared_feed_forward_length");
    }
    writer_.add_f32(key("attention.layer_norm_rms_epsilon"),
                    config_.at("rms_norm_eps").to_number<float>());
    float theta = 10000;
    for (const char* holder : {"rope_parameters", "rope_scaling"}) {
      const json::value* rope = config_.if_contains(holder);
      if (rope != nullptr && rope->is_object() && rope->get_object().contains("rope_theta")) {
        theta = rope->get_object().at("rope_theta").to_number<float>();
      }
    }
    if (config_.contains("rope_theta")) theta = config_.at("rope_theta").to_number<float>();
    writer_.add_f32(key("rope.freq_base"), theta);
    if (config_.contains("clip_qkv") && config_.at("clip_qkv").is_number()) {
      writer_.add_f32(key("attention.clamp_kqv"), config_.at("clip_qkv").to_number<float>());
    }
    if (config_.contains("norm_topk_prob") && config_.at("norm_topk_prob").is_bool()) {
      writer_.add_bool(key("expert_weights_norm"), config_.at("norm_topk_prob").get_bool());
    }
    writer_.add_u32("tokenizer.ggml.bos_token_id", number("bos_token_id"));
    writer_.add_u32("tokenizer.ggml.eos_token_id", number("eos_token_id"));
  }

  static std::vector<float> values_of(const TensorEntry& entry) {
    std::vector<float> values;
    for (int64_t i = 0; i < entry.view.elements(); ++i) {
      values.push_back(tensor::load_float(entry.view.dtype, entry.view.data, i));
    }
    return values;
  }

  /// Rows of each head in rope's order: half c's row i becomes row 2i + c.
  void pair_rows(std::vector<float>& values, int64_t heads) const {
    const auto cols = static_cast<int64_t>(values.size()) / (heads * head_dim());
    std::vector<float> paired;
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < head_dim() / 2; ++i) {
        for (int64_t c = 0; c < 2; ++c) {
          const int64_t row = head * head_dim() + c * head_dim() / 2 + i;
          paired.insert(paired.end(), values.begin() + row * cols,
                        values.begin() + (row + 1) * cols);
        }
      }
    }
    values = std::move(paired);
  }
  int64_t head_dim() const {
    if (config_.contains("head_dim") && config_.at("head_dim").is_number()) {
      return number("head_dim");
    }
    return number("hidden_size") / number("num_attention_heads");
  }

  void tensor(const TensorEntry& entry) {
    const std::vector<std::pair<const char*, const char*>> names = {
        {"model.embed_tokens.", "token_embd."},
        {"model.norm.", "output_norm."},
        {"lm_head.", "output."},
        {"model.layers.", "blk."},
        {"input_layernorm.", "attn_norm."},
        {"post_attention_layernorm.", "ffn_norm."},
        {"self_attn.q_norm.", "attn_q_norm."},
        {"self_attn.k_norm.", "attn_k_norm."},
        {"self_attn.q_proj.", "attn_q."},
        {"self_attn.k_proj.", "attn_k."},
        {"self_attn.v_proj.", "attn_v."},
        {"self_attn.o_proj.", "attn_output."},
        {"block_sparse_moe.gate.", "ffn_gate_inp."},
        {"mlp.gate.", "ffn_gate_inp."},
        {"mlp.shared_expert_gate.", "ffn_gate_inp_shexp."},
        {"mlp.shared_expert.gate_proj.", "ffn_gate_shexp."},
        {"mlp.shared_expert.up_proj.", "ffn_up_shexp."},
        {"mlp.shared_expert.down_proj.", "ffn_down_shexp."},
        {"mlp.gate_proj.", "ffn_gate."},
        {"mlp.up_proj.", "ffn_up."},
        {"mlp.down_proj.", "ffn_down."},
        {".w1.", ".gate_proj."},
        {".w3.", ".up_proj."},
        {".w2.", ".down_proj."},
        {"block_sparse_moe.experts.", "mlp.experts."},
    };
    std::string name = entry.name;
    for (const auto& [from, to] : names) name = replaced(name, from, to);
    std::vector<float> values = values_of(entry);
    if (style_.paired && name.find(".attn_q.") != name.npos) {
      pair_rows(values, number("num_attention_heads"));
    }
    if (style_.paired && name.find(".attn_k.") != name.npos) {
      pair_rows(values, number("num_key_value_heads"));
    }
    std::vector<int64_t> shape(entry.view.shape.begin(), entry.view.shape.end());
    while (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
    const size_t at = name.find("mlp.experts.");
    if (at == name.npos) return add(name, shape, values);
    expert(name.substr(0, at), name.substr(at + 12), shape, values);
  }

  /// `part`: "3.gate_proj.weight".
  void expert(const std::string& layer, const std::string& part, const std::vector<int64_t>& shape,
              const std::vector<float>& values) {
    const size_t dot = part.find('.');
    const int64_t index = std::stoll(part.substr(0, dot));
    const std::string kind = part.substr(dot + 1, part.find('_') - dot - 1);
    if (style_.split) {
      add(layer + "ffn_" + kind + "." + std::to_string(index) + ".weight", shape, values);
      return;
    }
    const bool merged = style_.merged && kind != "down";
    Stack& stack = stacks_[layer + "ffn_" + (merged ? "gate_up" : kind) + "_exps.weight"];
    const int64_t matrices = merged ? 2 : 1;
    stack.count = number(config_.contains("num_experts") ? "num_experts" : "num_local_experts");
    stack.rows = shape[0] * matrices;
    stack.cols = shape[1];
    stack.values.resize(static_cast<size_t>(stack.count * stack.rows * stack.cols));
    const int64_t place = index * matrices + (merged && kind == "up" ? 1 : 0);
    std::copy(values.begin(), values.end(),
              stack.values.begin() + place * static_cast<int64_t>(values.size()));
  }

  void add(const std::string& name, const std::vector<int64_t>& shape, std::vector<float> values) {
    const bool matrix = shape.size() > 1 && shape.back() % 32 == 0;
    const bool router = name.find("ffn_gate_inp") != name.npos;
    if (!matrix || router || !(style_.blocks || style_.rounded)) {
      return writer_.add_floats(name, shape, values);
    }
    const bool four_bits =
        style_.mixed && (name.find("attn_v") != name.npos || name.find("ffn_down") != name.npos);
    std::string bytes;
    for (size_t i = 0; i < values.size(); i += 32) {
      bytes += block(std::span(values).subspan(i, 32), four_bits);
    }
    if (style_.rounded) return writer_.add_floats(name, shape, values);
    writer_.add(name, four_bits ? 2 : 8, shape, bytes);
  }

  /// A block of Q8_0 or Q4_0; its values become what it says.
  static std::string block(std::span<float> values, bool four_bits) {
    const float most = four_bits ? 7 : 127;
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(value));
    const tensor::F16 scale = tensor::to_f16(largest / most);
    const float step = tensor::to_float(scale);
    std::array<int, 32> quants{};
    for (size_t i = 0; i < values.size(); ++i) {
      const float ratio = step > 0 ? std::round(values[i] / step) : 0;
      quants[i] = static_cast<int>(std::clamp(ratio, -most, most));
      values[i] = static_cast<float>(quants[i]) * step;
    }
    std::string bytes(reinterpret_cast<const char*>(&scale), 2);
    for (size_t i = 0; i < (four_bits ? 16 : 32); ++i) {
      const int byte = four_bits ? (quants[i] + 8) | (quants[i + 16] + 8) << 4 : quants[i];
      bytes += static_cast<char>(byte);
    }
    return bytes;
  }

  const Style& style_;
  json::object config_;
  Checkpoint checkpoint_;
  GgufWriter writer_;
  std::map<std::string, Stack> stacks_;
};

std::filesystem::path convert(const TempFolder& folder, const Style& style,
                              const std::string& name = "model.gguf") {
  checkpoint::testing::write_file(folder / name,
                                  Converter(checkpoints() / style.golden, style).write());
  return folder / name;
}

const std::vector<Style>& styles() {
  static const std::vector<Style> all = {
      {.golden = "llama", .architecture = "llama", .paired = true},
      {.golden = "mistral", .architecture = "llama", .paired = true},
      {.golden = "mixtral", .architecture = "llama", .paired = true},
      {.golden = "mixtral", .architecture = "llama", .paired = true, .split = true},
      {.golden = "mixtral", .architecture = "llama", .paired = true, .merged = true},
      {.golden = "qwen2", .architecture = "qwen2", .windowed = true},
      {.golden = "qwen2_moe", .architecture = "qwen2moe"},
      {.golden = "qwen2_moe", .architecture = "qwen2moe", .minimal = true},
      {.golden = "qwen3", .architecture = "qwen3"},
      {.golden = "qwen3_moe", .architecture = "qwen3moe"},
      {.golden = "olmoe", .architecture = "olmoe"},
  };
  return all;
}

TEST(GgufModel, GivesTheTokensOfTheOriginal) {
  for (const Style& style : styles()) {
    if (style.windowed) continue;
    SCOPED_TRACE(std::string(style.golden) + (style.split ? ", split" : "") +
                 (style.merged ? ", merged" : "") + (style.minimal ? ", minimal" : ""));
    const TempFolder folder;
    Runner runner(convert(folder, style), backend_names().front(), DType::kF32);
    const std::vector<Prompt> prompts = read_prompts(style.golden, runner.spec().vocab_size);
    std::vector<Tokens> inputs;
    for (const Prompt& prompt : prompts) inputs.push_back(prompt.tokens);
    const std::vector<Produced> produced = runner.run(inputs, 64, 48, {});
    for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(produced[i].tokens, prompts[i].greedy);
  }
}

/// Spec by spec: everything that a config.json says is said by the metadata too.
TEST(GgufModel, HasTheSpecOfTheOriginal) {
  for (const Style& style : styles()) {
    SCOPED_TRACE(style.golden);
    const TempFolder folder;
    const ModelSpec spec = load_spec(convert(folder, style));
    const ModelSpec original = load_spec(checkpoints() / style.golden);
    EXPECT_EQ(spec.family, original.family);
    EXPECT_TRUE(spec.gguf);
    EXPECT_FALSE(original.gguf);
    EXPECT_EQ(spec.rope_pairs, style.paired);
    EXPECT_EQ(count_parameters(spec).total, count_parameters(original).total);
    EXPECT_EQ(count_parameters(spec).active, count_parameters(original).active);
    EXPECT_EQ(spec.eos_ids, original.eos_ids);
    EXPECT_EQ(spec.max_position, original.max_position);
    EXPECT_EQ(spec.rope.theta, original.rope.theta);
    EXPECT_EQ(spec.tied_embeddings, original.tied_embeddings);
  }
}

/// On one rank and as the second of two.
TEST(GgufModel, BlocksAreLoadedAsTheirValues) {
  Style style{.golden = "mixtral", .architecture = "llama", .paired = true, .blocks = true};
  for (const bool qwen : {false, true}) {
    if (qwen) style = {.golden = "qwen2_moe", .architecture = "qwen2moe", .blocks = true};
    const TempFolder folder;
    const auto blocks = convert(folder, style, "blocks.gguf");
    style.blocks = false;
    style.rounded = true;
    const auto floats = convert(folder, style, "floats.gguf");
    EXPECT_LT(std::filesystem::file_size(blocks), std::filesystem::file_size(floats) * 2 / 3);
    for (const Shard& shard : {Shard{}, Shard{.ranks = 2, .rank = 1}}) {
      const auto load = [&](const std::filesystem::path& path) {
        FakeBackend backend;
        base::ThreadPool pool(2, /*pin=*/false);
        const LoadedWeights loaded =
            load_weights(lay_out_weights(load_spec(path), backend, DType::kF32, shard), backend,
                         pool, Checkpoint::open(path), {});
        return bytes_of(backend, loaded.buffer);
      };
      EXPECT_TRUE(load(blocks) == load(floats));
    }
  }
}

/// Q8_0 and rounded activations beside the same values in floats: rope's pairs, stacked, split and
/// merged experts (whose down is in floats, for its width is no multiple of a block).
TEST(GgufModel, BlocksAreServedAsTheyAre) {
  for (Style style : styles()) {
    if (style.windowed || style.minimal) continue;
    SCOPED_TRACE(std::string(style.golden) + (style.split ? ", split" : "") +
                 (style.merged ? ", merged" : ""));
    const TempFolder folder;
    style.blocks = true;
    style.mixed = style.golden == std::string("olmoe") || style.golden == std::string("qwen2_moe");
    const auto blocks = convert(folder, style, "blocks.gguf");
    style.blocks = false;
    style.rounded = true;
    const auto floats = convert(folder, style, "floats.gguf");
    for (const std::string& backend : backend_names()) {
      Runner stored(blocks, backend, DType::kF32, 1, /*as_stored=*/true);
      const LayerLayout& layer = stored.weights().layout.layers[0];
      const bool kept = backend != "reference";
      EXPECT_EQ(layer.qkv.item.desc.format.name, kept ? "q8_0" : "f32");
      EXPECT_EQ(layer.v.present(), kept && style.mixed);
      if (layer.v.present()) {
        EXPECT_EQ(layer.v.item.desc.format.name, "q4_0");
        // Dummy values are those of the one matrix.
        EXPECT_EQ(layer.v.item.slices[0].stacked_at, layer.qkv.item.desc.n);
      }
      const Tokens prompt = {5, 17, 30, 3, 41, 20, 9, 22, 13, 31};
      const auto logits = [&](Runner& runner) {
        return runner.run({prompt}, 64, 1, {{0, 4, 9}})[0].logits;
      };
      Runner twin(floats, backend, DType::kF32);
      const auto expected = logits(twin);
      double apart = 0;
      double size = 0;
      for (const auto& [position, row] : logits(stored)) {
        for (size_t i = 0; i < row.size(); ++i) {
          const float value = expected.at(position)[i];
          apart += std::pow(row[i] - value, 2);
          size += std::pow(value, 2);
        }
      }
      // A tenth of the logits, which what is read in another order exceeds ten times.
      EXPECT_LT(std::sqrt(apart / size), backend == "reference" ? 1e-5 : 0.1) << backend;
    }
  }
}

/// What a rank's share cuts within a block is unpacked.
TEST(GgufModel, AShareThatCutsBlocksIsInFloats) {
  const TempFolder folder;
  const auto path = convert(
      folder, {.golden = "mixtral", .architecture = "llama", .paired = true, .blocks = true});
  const ModelSpec spec = load_spec(path);
  const backend::testing::NamedBackend cpu(backend_names().back(), 1);
  int cut = 0;
  for (const int64_t ranks : {1, 2, 4}) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const WeightLayout layout =
          lay_out_weights(spec, *cpu.backend, DType::kF32, {.ranks = ranks, .rank = rank});
      for (const LayerLayout& layer : layout.layers) {
        const bool whole = layer.o.item.slices[0].col % 32 == 0;
        EXPECT_EQ(layer.o.item.desc.format.name, whole ? "q8_0" : "f32");
        cut += whole ? 0 : 1;
      }
    }
  }
  EXPECT_GT(cut, 0);
}

struct Refusal {
  const char* what;
  std::function<void(GgufWriter&)> write;
  const char* message;
};

TEST(GgufModel, WhatIsMissingOrNotComputedIsNamed) {
  const auto start = [](GgufWriter& writer, const char* architecture) {
    writer.add_string("general.architecture", architecture);
    const std::string prefix = std::string(architecture) + ".";
    writer.add_u32(prefix + "block_count", 1);
    writer.add_u32(prefix + "context_length", 64);
    writer.add_u32(prefix + "embedding_length", 8);
    writer.add_u32(prefix + "feed_forward_length", 8);
    writer.add_u32(prefix + "attention.head_count", 2);
    writer.add_f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5F);
    writer.add_floats("token_embd.weight", {2, 8}, std::vector<float>(16));
  };
  const auto with = [&](const char* architecture, auto add) {
    return [=](GgufWriter& writer) {
      start(writer, architecture);
      add(writer);
    };
  };
  const std::vector<Refusal> all = {
      {"no architecture", [](GgufWriter&) {}, "'general.architecture' is missing"},
      {"another architecture", with("rwkv6", [](auto&) {}), "supported are llama, qwen2"},
      {"no sizes", [](GgufWriter& w) { w.add_string("general.architecture", "llama"); },
       "'llama.embedding_length' is missing"},
      {"experts of a dense family",
       with("qwen3", [](GgufWriter& w) { w.add_u32("qwen3.expert_count", 4); }), "has experts"},
      {"no experts where there should be", with("olmoe", [](auto&) {}), "has no experts"},
      {"factors of frequencies",
       with("llama",
            [](GgufWriter& w) {
              w.add_floats("rope_freqs.weight", {2}, {1, 8});
            }),
       "rope_freqs.weight"},
      {"partial rotation",
       with("llama", [](GgufWriter& w) { w.add_u32("llama.rope.dimension_count", 2); }),
       "partial rotation"},
      {"longrope",
       with("llama",
            [](GgufWriter& w) {
              w.add_string("llama.rope.scaling.type", "longrope");
              w.add_f32("llama.rope.scaling.factor", 4);
            }),
       "none, linear and yarn"},
      {"values of another length",
       with("llama", [](GgufWriter& w) { w.add_u32("llama.attention.value_length", 2); }),
       "'llama.attention.value_length'"},
      {"heads that differ",
       with("llama",
            [](GgufWriter& w) {
              w.add_i32s("llama.attention.head_count_kv", {2, 1});
            }),
       "differs between layers"},
      {"sigmoid scoring",
       with("qwen3moe",
            [](GgufWriter& w) {
              w.add_u32("qwen3moe.expert_count", 4);
              w.add_u32("qwen3moe.expert_used_count", 2);
              w.add_u32("qwen3moe.expert_feed_forward_length", 8);
              w.add_u32("qwen3moe.expert_gating_func", 2);
            }),
       "not softmax"},
  };
  for (const Refusal& refusal : all) {
    SCOPED_TRACE(refusal.what);
    const TempFolder folder;
    GgufWriter writer;
    refusal.write(writer);
    checkpoint::testing::write_file(folder / "m.gguf", writer.bytes());
    try {
      load_spec(folder / "m.gguf");
      ADD_FAILURE() << "was accepted";
    } catch (const base::ModelFileError& error) {
      EXPECT_NE(std::string(error.what()).find(refusal.message), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace moesaic::model::testing
