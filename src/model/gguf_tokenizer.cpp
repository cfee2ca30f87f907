#include "model/gguf_tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <tuple>
#include <unordered_map>

#include "base/printable.h"
#include "model/config_common.h"

namespace moesaic::model {
namespace {

namespace json = boost::json;
using checkpoint::GgufMetadata;
using Texts = std::map<std::string, std::string>;

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kPre = "tokenizer.ggml.pre";
constexpr auto kMostTokens = static_cast<size_t>(kMaxVocab);
/// Of merges there are a few for each token at most.
constexpr size_t kMostMerges = 4 * kMostTokens;
/// Bytes of a SentencePiece token; published ones stay below 100. All its cuts are looked at.
constexpr size_t kLongestPiece = 512;

/// tokenizer.ggml.token_type.
enum TokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

/// How a byte-level tokenizer cuts a text into words before it merges.
struct PreTokenizer {
  std::vector<std::string_view> names;
  /// Each cuts what the ones before it left; what a pattern matches and what lies between become
  /// pieces. Of none: the pattern of GPT-2 alone.
  std::vector<const char*> patterns;
  bool gpt2_last = false;      ///< and the pattern of GPT-2 after them
  bool nfc = false;            ///< composes characters first
  bool ignore_merges = false;  ///< a word that is a token stays whole
  bool add_bos = false;        ///< where the file does not say
};

// The patterns are those of the models' published tokenizer.json files.
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kCjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> all = {
      {.names = {"gpt-2"}, .patterns = {}},
      {.names = {"olmo"}, .patterns = {}, .nfc = true},
      {.names = {"smollm"}, .patterns = {R"(\p{N})"}, .gpt2_last = true},
      {.names = {"llama-bpe", "llama3", "llama-v3"},
       .patterns = {kLlama3},
       .ignore_merges = true,
       .add_bos = true},
      {.names = {"qwen2"}, .patterns = {kQwen2}, .nfc = true},
      {.names = {"deepseek-r1-qwen"}, .patterns = {kQwen2}},
      {.names = {"deepseek-coder"},
       .patterns = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk, R"(\p{N})"}},
      {.names = {"deepseek-v3"},
       .patterns = {R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
                    R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|)"
                    R"(\s+(?!\S)|\s+)"}},
      {.names = {"gpt-4o", "llama4"}, .patterns = {kGpt4o}},
      {.names = {"tekken"}, .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
  };
  return all;
}

const PreTokenizer& pre_tokenizer_of(const GgufMetadata& metadata) {
  const std::string_view name = metadata.string(kPre);
  std::vector<std::string_view> known;
  for (const PreTokenizer& each : pre_tokenizers()) {
    if (std::find(each.names.begin(), each.names.end(), name) != each.names.end()) return each;
    known.insert(known.end(), each.names.begin(), each.names.end());
  }
  metadata.fail(kPre, fmt::format("is \"{}\", a pre-tokenizer that is not known; known are {}",
                                  base::printable(name), fmt::join(known, ", ")));
}

json::object byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json::object replacing(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// Makes the tokenizer's files.
class Translator {
 public:
  explicit Translator(const GgufMetadata& metadata)
      : metadata_(metadata), tokens_(metadata.strings(kTokens, kMostTokens)) {
    constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
    types_ = metadata.integers(kTypes, 0, UINT8_MAX, kMostTokens);
    if (types_.empty()) types_.assign(tokens_.size(), kNormal);
    if (types_.size() != tokens_.size()) refuse_length(kTypes, types_.size());
    if (tokens_.empty()) metadata_.fail(kTokens, "has no tokens");
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] == kUnused) continue;
      if (!ids_.emplace(tokens_[id], id).second) {
        metadata_.fail(kTokens,
                       fmt::format("has the token '{}' twice", base::printable(tokens_[id])));
      }
    }
  }

  void write(Texts& texts) {
    const std::string_view model = metadata_.string(kModel);
    if (model == "gpt2") {
      byte_level_bpe();
    } else if (model == "llama") {
      sentence_piece();
    } else {
      metadata_.fail(kModel, fmt::format("is \"{}\"; known are gpt2 (byte-level BPE) and llama "
                                         "(SentencePiece BPE)",
                                         base::printable(model)));
    }
    file_["version"] = "1.0";
    file_["added_tokens"] = added_tokens();
    file_["post_processor"] = post_processor();
    texts["tokenizer.json"] = json::serialize(file_);
    texts["tokenizer_config.json"] = json::serialize(config());
  }

 private:
  static constexpr std::string_view kModel = "tokenizer.ggml.model";

  [[noreturn]] void refuse_length(std::string_view key, size_t length) const {
    metadata_.fail(key, fmt::format("has {} elements for {} tokens", length, tokens_.size()));
  }

  void byte_level_bpe() {
    const PreTokenizer& pre = pre_tokenizer_of(metadata_);
    add_bos_ = pre.add_bos;
    json::array parts;
    for (const char* pattern : pre.patterns) {
      parts.push_back(json::object{{"type", "Split"},
                                   {"pattern", {{"Regex", pattern}}},
                                   {"behavior", "Isolated"},
                                   {"invert", false}});
    }
    parts.emplace_back(byte_level(pre.patterns.empty() || pre.gpt2_last));
    file_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
    if (pre.nfc) file_["normalizer"] = {{"type", "NFC"}};
    file_["decoder"] = byte_level(true);
    json::array merges;
    for (const std::string_view merge : metadata_.strings("tokenizer.ggml.merges", kMostMerges)) {
      merges.emplace_back(merge);
    }
    file_["model"] = json::object{{"type", "BPE"},          {"fuse_unk", false},
                                  {"byte_fallback", false}, {"ignore_merges", pre.ignore_merges},
                                  {"vocab", vocabulary()},  {"merges", std::move(merges)}};
  }

  void sentence_piece() {
    constexpr const char* kSpace = "\u2581";
    add_bos_ = true;
    const bool prefix = metadata_.boolean("tokenizer.ggml.add_space_prefix", true);
    json::array normalizers;
    if (prefix) normalizers.push_back(json::object{{"type", "Prepend"}, {"prepend", kSpace}});
    normalizers.emplace_back(replacing(" ", kSpace));
    file_["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
    json::array decoders;
    decoders.emplace_back(replacing(kSpace, " "));
    decoders.push_back(json::object{{"type", "ByteFallback"}});
    decoders.push_back(json::object{{"type", "Fuse"}});
    if (prefix) {
      decoders.push_back(
          json::object{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    file_["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
    json::object model{{"type", "BPE"},         {"fuse_unk", true},
                       {"byte_fallback", true}, {"ignore_merges", false},
                       {"vocab", vocabulary()}, {"merges", merges_by_score()}};
    if (const std::string_view unknown = token("unknown"); !unknown.empty()) {
      model["unk_token"] = unknown;
    }
    file_["model"] = std::move(model);
  }

  /// SentencePiece merges the two neighbours that make the token of the highest score; as a list of
  /// merges: every cut of every token into two, best first, of equal ones the longest left part.
  json::array merges_by_score() const {
    constexpr std::string_view kScores = "tokenizer.ggml.scores";
    const std::vector<float> scores = metadata_.numbers(kScores, kMostTokens);
    if (scores.size() != tokens_.size()) refuse_length(kScores, scores.size());
    struct Merge {
      float score;
      std::string_view left, right;
    };
    std::vector<Merge> merges;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const std::string_view text = tokens_[id];
      if (types_[id] != kNormal && types_[id] != kUserDefined) continue;
      if (text.size() > kLongestPiece) {
        metadata_.fail(kTokens, fmt::format("has a token of {} bytes; at most {} are possible",
                                            text.size(), kLongestPiece));
      }
      for (size_t cut = 1; cut < text.size(); ++cut) {
        const Merge merge{scores[id], text.substr(0, cut), text.substr(cut)};
        if (ids_.contains(merge.left) && ids_.contains(merge.right)) merges.push_back(merge);
      }
    }
    std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
      return std::tuple(a.score, a.left.size()) > std::tuple(b.score, b.left.size());
    });
    json::array list;
    list.reserve(merges.size());
    for (const Merge& merge : merges) list.push_back(json::array{merge.left, merge.right});
    return list;
  }

  json::object vocabulary() const {
    json::object vocabulary;
    vocabulary.reserve(ids_.size());
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] != kUnused) vocabulary[tokens_[id]] = id;
    }
    return vocabulary;
  }

  /// Tokens that are found in a text as they stand, before it is cut.
  json::array added_tokens() const {
    json::array added;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const bool special = types_[id] == kControl || types_[id] == kUnknown;
      if (!special && types_[id] != kUserDefined) continue;
      added.push_back(json::object{{"id", id},
                                   {"content", tokens_[id]},
                                   {"single_word", false},
                                   {"lstrip", false},
                                   {"rstrip", false},
                                   {"normalized", false},
                                   {"special", special}});
    }
    return added;
  }

  std::optional<size_t> token_id(std::string_view name) const {
    const int64_t id =
        metadata_.integer(fmt::format("tokenizer.ggml.{}_token_id", name), -1, UINT32_MAX, -1);
    if (id < 0 || id == UINT32_MAX) return std::nullopt;
    if (static_cast<size_t>(id) >= tokens_.size()) {
      metadata_.fail(fmt::format("tokenizer.ggml.{}_token_id", name),
                     fmt::format("is {}, but there are {} tokens", id, tokens_.size()));
    }
    return static_cast<size_t>(id);
  }
  std::string_view token(std::string_view name) const {
    const std::optional<size_t> id = token_id(name);
    return id && types_[*id] != kUnused ? tokens_[*id] : std::string_view();
  }

  bool adds(std::string_view name, bool fallback) const {
    return metadata_.boolean(fmt::format("tokenizer.ggml.add_{}_token", name), fallback) &&
           !token(name).empty();
  }

  /// What stands before and after a text.
  json::value post_processor() const {
    const bool bos = adds("bos", add_bos_);
    const bool eos = adds("eos", false);
    if (!bos && !eos) return nullptr;
    json::array single;
    json::object specials;
    const auto put = [&](std::string_view name) {
      const std::string_view text = token(name);
      single.push_back(json::object{{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
      specials[text] = {
          {"id", text}, {"ids", json::array{*token_id(name)}}, {"tokens", json::array{text}}};
    };
    if (bos) put("bos");
    single.push_back(json::object{{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    if (eos) put("eos");
    json::array pair = single;
    pair.push_back(json::object{{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
    return json::object{{"type", "TemplateProcessing"},
                        {"single", std::move(single)},
                        {"pair", std::move(pair)},
                        {"special_tokens", std::move(specials)}};
  }

  json::object config() const {
    json::object config{{"tokenizer_class", "PreTrainedTokenizerFast"}};
    const std::pair<const char*, const char*> names[] = {{"bos_token", "bos"},
                                                         {"eos_token", "eos"},
                                                         {"unk_token", "unknown"},
                                                         {"pad_token", "padding"}};
    for (const auto& [name, key] : names) {
      if (const std::string_view text = token(key); !text.empty()) config[name] = text;
    }
    config["add_bos_token"] = adds("bos", add_bos_);
    config["add_eos_token"] = adds("eos", false);
    return config;
  }

  const GgufMetadata& metadata_;
  std::vector<std::string_view> tokens_;
  std::vector<int64_t> types_;
  std::unordered_map<std::string_view, size_t> ids_;  ///< of the tokens in use
  bool add_bos_ = false;
  json::object file_;
};

void add_templates(const GgufMetadata& metadata, Texts& texts) {
  const std::pair<const char*, const char*> templates[] = {
      {"tokenizer.chat_template", "chat_template.jinja"},
      {"tokenizer.chat_template.tool_use", "additional_chat_templates/tool_use.jinja"}};
  for (const auto& [key, file] : templates) {
    if (metadata.has(key)) texts[file] = metadata.string(key);
  }
}

void add_sampling(const GgufMetadata& metadata, Texts& texts) {
  json::object config;
  const std::pair<const char*, const char*> numbers[] = {{"temp", "temperature"},
                                                         {"top_p", "top_p"},
                                                         {"min_p", "min_p"},
                                                         {"penalty_repeat", "repetition_penalty"}};
  for (const auto& [key, name] : numbers) {
    const std::string full = fmt::format("general.sampling.{}", key);
    if (metadata.has(full)) config[name] = metadata.number(full);
  }
  constexpr std::string_view kTopK = "general.sampling.top_k";
  if (metadata.has(kTopK)) config["top_k"] = metadata.integer(kTopK, -1, INT32_MAX);
  if (!config.empty()) texts["generation_config.json"] = json::serialize(config);
}

}  // namespace

std::map<std::string, std::string> gguf_texts(const GgufMetadata& metadata, bool tokenizer) {
  Texts texts;
  if (tokenizer && metadata.has(kTokens)) Translator(metadata).write(texts);
  add_templates(metadata, texts);
  add_sampling(metadata, texts);
  return texts;
}

}  // namespace moesaic::model
