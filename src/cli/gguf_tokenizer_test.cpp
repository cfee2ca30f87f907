// Tokenizers from GGUF metadata cut and join texts as the tokenizer.json that they come from. Here,
// and not beside the code, since no room below sees both the metadata and the tokenizer.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>

#include "base/error.h"
#include "checkpoint/gguf_testing.h"
#include "model/gguf_tokenizer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using checkpoint::testing::GgufWriter;
using Texts = std::map<std::string, std::string>;

const fs::path kSource = MOESAIC_SOURCE_DIR;

json::value read_json(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
}

fs::path testdata(const char* name) { return kSource / "src/text/testdata" / name; }

/// All texts that the text library is tested with, and some that every pattern cuts in its own way.
std::vector<std::string> suite() {
  std::vector<std::string> texts = {
      "I'll say it's DON'T, we'VE",         "12345 67 8, 3.14159 x1y22z333",
      "tabs\tand\r\n\r\n  lines \n",        "!important /path/to.file?a=b",
      "camelCaseXMLHttp ÜberÄrger",         "中文字符，ひらがな カタカナ 한국어",
      "e\u0301a\u0308 \u00e9\u00e4 \u212b", "naïve café — “quotes” …",
      "  leading and trailing  ",           "\u0627\u0644\u0639 \u0967\u0968\u0969 \u2163 ½",
      "🙂👩‍👩‍👧 emoji",       "a_b-c+d=e; #tag @me <s> [UNK] \u2581"};
  for (const char* name : {"byte_level", "sentencepiece"}) {
    const json::value cases = read_json(testdata(name) / "cases.json");
    for (const json::value& each : cases.as_array()) {
      texts.emplace_back(each.at("text").as_string());
    }
  }
  return texts;
}

std::vector<std::string> tokens_of(const json::object& tokenizer) {
  std::map<int64_t, std::string> by_id;
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").as_object()) {
    by_id[id.to_number<int64_t>()] = token;
  }
  for (const json::value& added : tokenizer.at("added_tokens").as_array()) {
    by_id[added.at("id").to_number<int64_t>()] = std::string(added.at("content").as_string());
  }
  std::vector<std::string> tokens;
  for (const auto& [id, token] : by_id) {
    EXPECT_EQ(id, static_cast<int64_t>(tokens.size()));
    tokens.push_back(token);
  }
  return tokens;
}

/// The two tokens of a merge, in either spelling.
std::pair<std::string, std::string> merge_of(const json::value& merge) {
  if (merge.is_array()) {
    return {std::string(merge.at(0).as_string()), std::string(merge.at(1).as_string())};
  }
  const std::string line(merge.as_string());
  return {line.substr(0, line.find(' ')), line.substr(line.find(' ') + 1)};
}

/// Puts a tokenizer.json into a file's metadata, as a converter does.
class MetadataWriter {
 public:
  explicit MetadataWriter(const json::object& tokenizer)
      : tokenizer_(tokenizer), tokens_(tokens_of(tokenizer)) {
    std::vector<int32_t> types(tokens_.size(), 1);
    for (const json::value& added : tokenizer.at("added_tokens").as_array()) {
      const int32_t special = added.at("content").as_string() == "<unk>" ? 2 : 3;
      types[added.at("id").to_number<size_t>()] = added.at("special").as_bool() ? special : 4;
    }
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (tokens_[id].size() == 6 && tokens_[id].starts_with("<0x")) types[id] = 6;
    }
    writer.add_strings("tokenizer.ggml.tokens", tokens_);
    writer.add_i32s("tokenizer.ggml.token_type", types);
  }

  void byte_level(const std::string& pre) {
    writer.add_string("tokenizer.ggml.model", "gpt2");
    writer.add_string("tokenizer.ggml.pre", pre);
    std::vector<std::string> merges;
    for (const json::value& merge : tokenizer_.at("model").at("merges").as_array()) {
      const auto [left, right] = merge_of(merge);
      merges.push_back(left + " " + right);
    }
    writer.add_strings("tokenizer.ggml.merges", merges);
  }

  /// Scores that make the merges in their order: of a token, minus the rank of its first merge.
  void sentence_piece() {
    writer.add_string("tokenizer.ggml.model", "llama");
    std::map<std::string, float> scores;
    float score = 0;
    for (const json::value& merge : tokenizer_.at("model").at("merges").as_array()) {
      const auto [left, right] = merge_of(merge);
      scores.emplace(left + right, score -= 1);
    }
    std::vector<float> all;
    for (const std::string& token : tokens_) {
      const auto found = scores.find(token);
      all.push_back(found == scores.end() ? score - 1 : found->second);
    }
    writer.add_f32s("tokenizer.ggml.scores", all);
  }

  void id(const char* name, const std::string& token) {
    const auto at = std::find(tokens_.begin(), tokens_.end(), token);
    ASSERT_NE(at, tokens_.end());
    writer.add_u32(name, static_cast<uint32_t>(at - tokens_.begin()));
  }

  GgufWriter writer;

 private:
  const json::object& tokenizer_;
  std::vector<std::string> tokens_;
};

Texts texts_of(const GgufWriter& writer) {
  const std::string file = writer.bytes();
  return model::gguf_texts(
      checkpoint::parse_gguf(std::as_bytes(std::span(file)), "m.gguf").metadata);
}

void expect_same(const text::Tokenizer& made, const text::Tokenizer& original, bool add_bos) {
  for (const std::string& text : suite()) {
    for (const auto specials :
         {text::Tokenizer::Specials::kParse, text::Tokenizer::Specials::kAsText}) {
      const auto wanted = original.encode(text, add_bos, specials);
      EXPECT_EQ(made.encode(text, add_bos, specials), wanted) << text;
      for (const bool skip : {false, true}) {
        EXPECT_EQ(made.decode(wanted, skip), original.decode(wanted, skip)) << text;
      }
    }
  }
  EXPECT_EQ(made.vocab_size(), original.vocab_size());
}

/// The character that stands for each byte in byte-level tokenizers: printable ones for themselves,
/// the others from U+0100 on.
std::vector<std::string> byte_characters() {
  std::vector<std::string> characters;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    const int code = printable ? byte : next++;
    characters.push_back(code < 128 ? std::string(1, static_cast<char>(code))
                                    : std::string{static_cast<char>(0xc0 | code >> 6),
                                                  static_cast<char>(0x80 | (code & 63))});
  }
  return characters;
}

/// A tokenizer.json whose tokens are bytes and every pair of neighbours in the suite: where a text
/// is cut, pairs are other ones from there on.
json::object pairs_tokenizer() {
  const std::vector<std::string> characters = byte_characters();
  json::object vocabulary;
  json::array merges;
  for (const std::string& character : characters) vocabulary[character] = vocabulary.size();
  for (const std::string& text : suite()) {
    for (size_t i = 0; i + 1 < text.size(); ++i) {
      const std::string& left = characters[static_cast<uint8_t>(text[i])];
      const std::string& right = characters[static_cast<uint8_t>(text[i + 1])];
      if (vocabulary.contains(left + right)) continue;
      vocabulary[left + right] = vocabulary.size();
      merges.push_back(json::array{left, right});
    }
  }
  json::object special{{"id", vocabulary.size()}, {"content", "<s>"}, {"single_word", false},
                       {"lstrip", false},         {"rstrip", false},  {"normalized", false},
                       {"special", true}};
  return {{"version", "1.0"},
          {"added_tokens", json::array{std::move(special)}},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model",
           {{"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}}}};
}

/// Behind the pre-tokenizers of published tokenizer.json files.
TEST(GgufTokenizer, EveryPreTokenizerCutsAsThePublishedOne) {
  const json::object published =
      read_json(kSource / "tests/golden/pre_tokenizers.json").as_object();
  std::map<std::vector<int32_t>, std::string> seen;
  for (const auto& [pre, parts] : published) {
    SCOPED_TRACE(std::string(pre));
    json::object tokenizer = pairs_tokenizer();
    tokenizer["normalizer"] = parts.at("normalizer");
    tokenizer["pre_tokenizer"] = parts.at("pre_tokenizer");
    tokenizer["model"].as_object()["ignore_merges"] = parts.at("ignore_merges");
    const auto original = text::Tokenizer::load(
        base::ModelFolder("original", {{"tokenizer.json", json::serialize(tokenizer)}}));
    MetadataWriter metadata(tokenizer);
    metadata.byte_level(std::string(pre));
    const auto made = text::Tokenizer::load(base::ModelFolder("m.gguf", texts_of(metadata.writer)));
    expect_same(*made, *original, false);
    std::vector<int32_t> all;
    for (const std::string& text : suite()) {
      const auto ids = made->encode(text, false, text::Tokenizer::Specials::kParse);
      all.insert(all.end(), ids.begin(), ids.end());
    }
    // The suite tells them apart, so that a wrong pattern would be seen.
    const auto [at, is_new] = seen.emplace(all, pre);
    EXPECT_TRUE(is_new) << "cuts as " << at->second;
  }
}

TEST(GgufTokenizer, SentencePieceMergesByScore) {
  const fs::path folder = testdata("sentencepiece");
  const json::object tokenizer = read_json(folder / "tokenizer.json").as_object();
  const auto original = text::Tokenizer::load(folder);
  MetadataWriter metadata(tokenizer);
  metadata.sentence_piece();
  metadata.id("tokenizer.ggml.unknown_token_id", "<unk>");
  metadata.id("tokenizer.ggml.bos_token_id", "<s>");
  metadata.id("tokenizer.ggml.eos_token_id", "</s>");
  const auto made = text::Tokenizer::load(base::ModelFolder("m.gguf", texts_of(metadata.writer)));
  expect_same(*made, *original, false);
  EXPECT_EQ(made->bos_id(), original->bos_id());
  EXPECT_EQ(made->eos_id(), original->eos_id());
  const auto ids = made->encode("a", true, text::Tokenizer::Specials::kParse);
  ASSERT_FALSE(ids.empty());
  EXPECT_EQ(ids.front(), *made->bos_id());  // added unless the file says otherwise
}

TEST(GgufTokenizer, WhatTheFileAddsAroundATextIsAdded) {
  const json::object demo = read_json(kSource / "models/demo/tokenizer.json").as_object();
  for (const bool bos : {false, true}) {
    for (const bool eos : {false, true}) {
      MetadataWriter metadata(demo);
      metadata.byte_level("gpt-2");
      metadata.id("tokenizer.ggml.bos_token_id", "<|endoftext|>");
      metadata.id("tokenizer.ggml.eos_token_id", "<|im_end|>");
      metadata.writer.add_bool("tokenizer.ggml.add_bos_token", bos);
      metadata.writer.add_bool("tokenizer.ggml.add_eos_token", eos);
      const auto made =
          text::Tokenizer::load(base::ModelFolder("m.gguf", texts_of(metadata.writer)));
      auto wanted = made->encode("word", false, text::Tokenizer::Specials::kParse);
      if (bos) wanted.insert(wanted.begin(), *made->bos_id());
      if (eos) wanted.push_back(*made->eos_id());
      EXPECT_EQ(made->encode("word", true, text::Tokenizer::Specials::kParse), wanted);
    }
  }
}

TEST(GgufTokenizer, TemplatesAndSamplingDefaultsComeAlong) {
  GgufWriter writer;
  writer.add_string("tokenizer.chat_template", "{{ messages[0].content }}!");
  writer.add_f32("general.sampling.temp", 0.5F);
  writer.add_i32("general.sampling.top_k", 20);
  writer.add_f32("general.sampling.penalty_repeat", 1.25F);
  const Texts texts = texts_of(writer);
  EXPECT_EQ(texts.size(), 2U);
  EXPECT_EQ(json::parse(texts.at("generation_config.json")),
            json::parse(R"({"temperature":0.5,"top_k":20,"repetition_penalty":1.25})"));
  const auto chat = text::ChatTemplate::load(base::ModelFolder("m.gguf", texts), "");
  EXPECT_EQ(text::ChatTemplate::without_guards(
                chat->render(R"({"messages":[{"role":"user","content":"hi"}]})")),
            "hi!");
  EXPECT_EQ(texts_of(GgufWriter()).size(), 0U);
}

TEST(GgufTokenizer, WhatDoesNotFitIsNamed) {
  const auto refused = [](const std::function<void(GgufWriter&)>& write, const char* message) {
    GgufWriter writer;
    write(writer);
    try {
      texts_of(writer);
      ADD_FAILURE() << "was accepted: " << message;
    } catch (const base::ModelFileError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  const auto start = [](GgufWriter& writer, const char* model = "gpt2") {
    writer.add_string("tokenizer.ggml.model", model);
    writer.add_strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
  };
  refused([&](GgufWriter& w) { start(w, "rwkv"); }, "known are gpt2");
  refused([&](GgufWriter& w) { start(w); }, "'tokenizer.ggml.pre' is missing");
  refused(
      [&](GgufWriter& w) {
        start(w);
        w.add_string("tokenizer.ggml.pre", "no-such");
      },
      "known are gpt-2, olmo, smollm, llama-bpe");
  refused([](GgufWriter& w) { w.add_strings("tokenizer.ggml.tokens", {}); }, "has no tokens");
  refused([](GgufWriter& w) { w.add_strings("tokenizer.ggml.tokens", {"a", "a"}); }, "twice");
  refused(
      [&](GgufWriter& w) {
        start(w);
        w.add_i32s("tokenizer.ggml.token_type", {1, 1});
      },
      "has 2 elements for 3 tokens");
  refused([&](GgufWriter& w) { start(w, "llama"); }, "has 0 elements for 3 tokens");
  refused(
      [&](GgufWriter& w) {
        start(w, "llama");
        w.add_f32s("tokenizer.ggml.scores", {0, 0, 0});
        w.add_u32("tokenizer.ggml.bos_token_id", 3);
      },
      "is 3, but there are 3 tokens");
  refused(
      [](GgufWriter& w) {
        w.add_string("tokenizer.ggml.model", "llama");
        w.add_strings("tokenizer.ggml.tokens", {std::string(513, 'a')});
        w.add_f32s("tokenizer.ggml.scores", {0});
      },
      "token of 513 bytes");
}

}  // namespace
}  // namespace moesaic::cli
