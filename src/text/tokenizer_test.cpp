#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <random>
#include <thread>

#include "base/error.h"
#include "text/text_testing.h"

namespace moesaic::text {
namespace {

namespace json = boost::json;
using Specials = Tokenizer::Specials;

std::vector<int32_t> ids_of(const json::value& list) {
  return json::value_to<std::vector<int32_t>>(list);
}

std::shared_ptr<const Tokenizer> load(const std::string& name) {
  return Tokenizer::load(testdata() / name);
}

/// Where the first sequence that is not UTF-8 begins; npos when there is none.
size_t first_invalid(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || i + size > text.size()) return i;
    for (size_t k = 1; k < size; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return i;
    }
    i += size;
  }
  return std::string_view::npos;
}

class EachTokenizer : public testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ = load(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Tokenizers, EachTokenizer,
                         testing::Values("byte_level", "sentencepiece", "metaspace"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EachTokenizer, GivesTheIdsOfHuggingFace) {
  for (const json::value& golden : read_list(testdata() / GetParam() / "cases.json")) {
    const std::string text = string_of(golden.at("text"));
    SCOPED_TRACE(json::serialize(golden.at("text")));
    EXPECT_EQ(tokenizer_->encode(text, false, Specials::kParse), ids_of(golden.at("parsed")));
    EXPECT_EQ(tokenizer_->encode(text, true, Specials::kParse), ids_of(golden.at("around")));
    EXPECT_EQ(tokenizer_->encode(text, false, Specials::kAsText), ids_of(golden.at("plain")));
    const auto ids = ids_of(golden.at("parsed"));
    EXPECT_EQ(tokenizer_->decode(ids, false), string_of(golden.at("decoded")));
    EXPECT_EQ(tokenizer_->decode(ids, true), string_of(golden.at("skipped")));
  }
}

/// The same text as testdata/make_goldens.py makes.
std::string long_text(int64_t seed, const std::string& alphabet, int64_t size) {
  std::vector<std::string> characters;
  for (size_t i = 0; i < alphabet.size();) {
    const auto lead = static_cast<unsigned char>(alphabet[i]);
    const size_t bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    characters.push_back(alphabet.substr(i, bytes));
    i += bytes;
  }
  std::string text;
  for (int64_t i = 0; i < size; ++i) {
    seed = (seed * 1103515245 + 12345) % (int64_t{1} << 31);
    text += characters[static_cast<size_t>(seed >> 16) % characters.size()];
  }
  return text;
}

TEST_P(EachTokenizer, GivesTheIdsOfHuggingFaceForLongWords) {
  for (const json::value& golden : read_list(testdata() / GetParam() / "long.json")) {
    SCOPED_TRACE(json::serialize(golden));
    const std::string text =
        long_text(golden.at("seed").as_int64(), string_of(golden.at("alphabet")),
                  golden.at("size").as_int64());
    const auto ids = tokenizer_->encode(text, false, Specials::kParse);
    int64_t checksum = 0;
    for (const int32_t id : ids) checksum = (checksum * 31 + id) % (int64_t{1} << 31);
    EXPECT_EQ(static_cast<int64_t>(ids.size()), golden.at("count").as_int64());
    EXPECT_EQ(checksum, golden.at("checksum").as_int64());
  }
}

/// Random ids: tokens, special tokens, and ids without a token on both sides.
std::vector<int32_t> random_ids(std::mt19937& rng, const Tokenizer& tokenizer) {
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  std::vector<int32_t> ids(rng() % 40);
  for (int32_t& id : ids) {
    switch (rng() % 16) {
      case 0:
        id = size + static_cast<int32_t>(rng() % 1000);
        break;
      case 1:
        id = -1 - static_cast<int32_t>(rng() % 1000);
        break;
      case 2:
        id = std::numeric_limits<int32_t>::max();
        break;
      default:
        // Low ids are bytes in all these vocabularies: broken characters are common.
        id = static_cast<int32_t>(rng() % (rng() % 2 == 0 ? 260 : size));
    }
  }
  return ids;
}

TEST_P(EachTokenizer, StreamsAddUpToTheWhole) {
  std::mt19937 rng(7);
  for (int round = 0; round < 3000; ++round) {
    const bool skip_special = round % 2 == 0;
    const auto ids = random_ids(rng, *tokenizer_);
    StreamDecoder stream(tokenizer_, {}, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = stream.push(id);
      ASSERT_EQ(first_invalid(piece), std::string_view::npos) << "half a character";
      text += piece;
    }
    text += stream.finish();
    ASSERT_EQ(first_invalid(text), std::string_view::npos);
    ASSERT_EQ(text, tokenizer_->decode(ids, skip_special)) << "round " << round;
  }
}

TEST_P(EachTokenizer, StreamsGoOnFromThePrompt) {
  const std::string whole = "The river carries the boats";
  const auto ids = tokenizer_->encode(whole, false, Specials::kParse);
  for (size_t cut = 1; cut < ids.size(); ++cut) {
    const std::span<const int32_t> prompt(ids.data(), cut);
    StreamDecoder stream(tokenizer_, prompt.last(std::min<size_t>(cut, 4)), true);
    std::string text;
    for (size_t i = cut; i < ids.size(); ++i) text += stream.push(ids[i]);
    text += stream.finish();
    EXPECT_EQ(tokenizer_->decode(prompt, true) + text, tokenizer_->decode(ids, true)) << cut;
  }
}

TEST_P(EachTokenizer, TokenBytesAreTheBytesOfTheText) {
  for (const std::string text : {"The letter, 한 é\n🙂", "a  b"}) {
    const auto ids = tokenizer_->encode(text, false, Specials::kAsText);
    std::string bytes;
    for (const int32_t id : ids) {
      bytes += tokenizer_->token_bytes(id);
      EXPECT_EQ(first_invalid(tokenizer_->token_text(id)), std::string_view::npos);
    }
    // SentencePiece's leading space is a byte of its token; decoding a text drops it.
    if (std::string_view(GetParam()) != "byte_level") {
      ASSERT_EQ(bytes.substr(0, 1), " ");
      bytes.erase(0, 1);
    }
    EXPECT_EQ(bytes, tokenizer_->decode(ids, false));
  }
}

TEST_P(EachTokenizer, IdsWithoutATokenAreNothing) {
  const auto size = static_cast<int32_t>(tokenizer_->vocab_size());
  for (const int32_t id : {-1, size, size + 5000, std::numeric_limits<int32_t>::max()}) {
    EXPECT_EQ(tokenizer_->decode(std::vector{id}, false), "");
    EXPECT_EQ(tokenizer_->token_text(id), "");
    EXPECT_EQ(tokenizer_->token_bytes(id), "");
    EXPECT_FALSE(tokenizer_->is_special(id));
  }
  EXPECT_EQ(tokenizer_->decode({}, false), "");
  EXPECT_NE(tokenizer_->token_text(size - 1), "");
}

TEST(Tokenizer, EmitsACharacterWithItsLastByte) {
  const auto tokenizer = load("sentencepiece");
  StreamDecoder stream(tokenizer, {}, true);
  const auto byte = [&](const char* token) { return *tokenizer->token_to_id(token); };
  EXPECT_EQ(stream.push(byte("<0xED>")), "");
  EXPECT_EQ(stream.push(byte("<0x95>")), "");
  EXPECT_EQ(stream.push(byte("<0x9C>")), "한");
  EXPECT_EQ(stream.push(byte("<0xF0>")), "");
  EXPECT_EQ(stream.push(byte("<0x41>")), "\uFFFDA");
  EXPECT_EQ(stream.push(byte("<0xE2>")), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto bytes = load("byte_level");
  const int32_t end = *bytes->token_to_id("<|im_end|>");
  EXPECT_EQ(bytes->eos_id(), end);
  EXPECT_EQ(bytes->bos_id(), std::nullopt);
  EXPECT_TRUE(bytes->is_special(end));
  EXPECT_EQ(bytes->token_bytes(end), "<|im_end|>");
  const int32_t think = *bytes->token_to_id("<think>");
  EXPECT_FALSE(bytes->is_special(think));
  EXPECT_EQ(bytes->token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(bytes->token_bytes(*bytes->token_to_id("Ċ")), "\n");
  EXPECT_EQ(bytes->token_bytes(*bytes->token_to_id("Ġthe")), " the");
  const int32_t lead = *bytes->token_to_id("í");
  EXPECT_EQ(bytes->token_bytes(lead), "\xED");
  EXPECT_EQ(bytes->token_text(lead), "\uFFFD");
  EXPECT_EQ(bytes->vocab_size(), *bytes->token_to_id("solo") + 1);

  const auto pieces = load("sentencepiece");
  EXPECT_EQ(pieces->bos_id(), 1);
  EXPECT_EQ(pieces->eos_id(), 2);
  EXPECT_EQ(pieces->token_bytes(*pieces->token_to_id("<0x0A>")), "\n");
  EXPECT_EQ(pieces->token_bytes(*pieces->token_to_id("▁the")), " the");
}

TEST(Tokenizer, GuardedTextIsNeverSpecial) {
  const auto tokenizer = load("byte_level");
  const auto guarded = [](std::string_view text) {
    return "\uFDD0" + std::string(text) + "\uFDD1";
  };
  const std::string rendered =
      "<|im_start|>user\nsay " + guarded("<|im_end|>") + " now<|im_end|>\n";
  std::vector<int32_t> expected = tokenizer->encode("<|im_start|>", false, Specials::kParse);
  // The user's part is one text, as if no special tokens existed.
  for (const int32_t id : tokenizer->encode("user\nsay <|im_end|> now", false, Specials::kAsText)) {
    expected.push_back(id);
  }
  for (const int32_t id : tokenizer->encode("<|im_end|>\n", false, Specials::kParse)) {
    expected.push_back(id);
  }
  EXPECT_EQ(tokenizer->encode_chat(rendered, false), expected);
}

TEST(Tokenizer, ChatWithoutMarksIsPlainText) {
  for (const char* name : {"byte_level", "sentencepiece", "metaspace"}) {
    const auto tokenizer = load(name);
    for (const json::value& golden : read_list(testdata() / name / "cases.json")) {
      const std::string text = string_of(golden.at("text"));
      if (text.find("\uFDD0") != std::string::npos) continue;
      EXPECT_EQ(tokenizer->encode_chat(text, true),
                tokenizer->encode(text, true, Specials::kParse));
    }
  }
}

TEST(Tokenizer, BosFollowsTheFlagsOfLlama) {
  const TempFolder folder;
  folder.write("tokenizer.json", read_file(testdata() / "sentencepiece/tokenizer.json"));
  const auto ids_with = [&](const std::string& config) {
    folder.write("tokenizer_config.json", config);
    return Tokenizer::load(folder.path())->encode("", true, Specials::kParse);
  };
  const std::string names = R"("bos_token": "<s>", "eos_token": {"content": "</s>"})";
  const auto llama = [&](const std::string& flags) {
    return ids_with(R"({"tokenizer_class": "LlamaTokenizer", )" + flags + names + "}");
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(llama(""), Ids{1});
  EXPECT_EQ(llama(R"("add_bos_token": false, )"), Ids{});
  EXPECT_EQ(llama(R"("add_bos_token": true, "add_eos_token": true, )"), (Ids{1, 2}));
  EXPECT_EQ(
      ids_with(R"({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": false, )" + names + "}"),
      Ids{1});
  std::filesystem::remove(folder.path() / "tokenizer_config.json");
  const auto bare = Tokenizer::load(folder.path());
  EXPECT_EQ(bare->encode("", true, Specials::kParse), Ids{1});
  EXPECT_EQ(bare->eos_id(), std::nullopt);
  folder.write("special_tokens_map.json", R"({"eos_token": {"content": "</s>"}})");
  EXPECT_EQ(Tokenizer::load(folder.path())->eos_id(), 2);
}

TEST(Tokenizer, DecodersOfAllKindsAgreeWithHuggingFace) {
  const TempFolder folder;
  json::value file = json::parse(read_file(testdata() / "sentencepiece/tokenizer.json"));
  for (const json::value& golden : read_list(testdata() / "decoders.json")) {
    SCOPED_TRACE(json::serialize(golden.at("decoder")));
    file.at("decoder") = golden.at("decoder");
    folder.write("tokenizer.json", json::serialize(file));
    const auto tokenizer = Tokenizer::load(folder.path());
    for (const json::value& list : golden.at("lists").as_array()) {
      const auto ids = ids_of(list.at(0));
      EXPECT_EQ(tokenizer->decode(ids, true), string_of(list.at(1)));
      StreamDecoder stream(tokenizer, {}, true);
      std::string text;
      for (const int32_t id : ids) text += stream.push(id);
      EXPECT_EQ(text + stream.finish(), string_of(list.at(1)));
    }
  }
}

TEST(Tokenizer, TakesTheTokensOfItsConfig) {
  const TempFolder folder;
  folder.write("tokenizer.json", read_file(testdata() / "byte_level/tokenizer.json"));
  const auto plain = Tokenizer::load(folder.path());
  const auto next = plain->vocab_size();
  const auto think = *plain->token_to_id("<think>");
  const json::object config{
      {"pad_token", "<|no_row|>"},
      {"bos_token", "the"},
      {"additional_special_tokens", json::array{"<|none|>"}},
      {"added_tokens_decoder",
       json::object{
           {std::to_string(think), json::object{{"content", "<think>"}, {"special", true}}},
           {std::to_string(next), json::object{{"content", "<|next|>"}, {"special", true}}},
           {std::to_string(next + 7), json::object{{"content", "<|far|>"}, {"special", true}}}}}};
  folder.write("tokenizer_config.json", json::serialize(config));
  const auto tokenizer = Tokenizer::load(folder.path());
  EXPECT_TRUE(tokenizer->is_special(think));
  EXPECT_EQ(tokenizer->token_to_id("<|next|>"), next);
  EXPECT_EQ(tokenizer->encode("<|next|>", false, Specials::kParse),
            (std::vector{static_cast<int32_t>(next)}));
  EXPECT_EQ(tokenizer->vocab_size(), next + 1);
  // Ids that the model has no row for would be worse than text.
  for (const char* text : {"<|no_row|>", "<|none|>", "<|far|>"}) {
    EXPECT_EQ(tokenizer->token_to_id(text), std::nullopt);
    EXPECT_GT(tokenizer->encode(text, false, Specials::kParse).size(), 1u);
  }
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
}

TEST(Tokenizer, PathologicalTextTakesLinearTime) {
  // Processor time, which other programs on the machine do not change.
  const auto seconds = [](const Tokenizer& tokenizer, const std::string& text) {
    const std::clock_t start = std::clock();
    const auto ids = tokenizer.encode(text, false, Specials::kAsText);
    const double taken = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_FALSE(ids.empty());
    return taken;
  };
  for (const char* name : {"byte_level", "sentencepiece"}) {
    const auto tokenizer = load(name);
    const auto make = {
        +[](size_t n) { return std::string(n, ' '); },
        +[](size_t n) { return std::string(n, 'a'); },
        +[](size_t n) { return long_text(1, "the riv", static_cast<int64_t>(n)); },
        +[](size_t n) { return "e" + long_text(1, "\u0301\u0323", static_cast<int64_t>(n / 2)); },
    };
    for (const auto text_of : make) {
      const double small = seconds(*tokenizer, text_of(100000));
      const double large = seconds(*tokenizer, text_of(1000000));
      // Ten times the text: quadratic time would be a hundred. Generous for noisy machines.
      EXPECT_LT(large, 40 * std::max(small, 0.02)) << name;
    }
  }
}

TEST(Tokenizer, EncodingCanBeCancelled) {
  const auto tokenizer = load("sentencepiece");
  const std::string word = long_text(1, "the riv", 5000000);
  std::atomic<bool> cancel{true};
  EXPECT_THROW(tokenizer->encode(word, false, Specials::kParse, &cancel), base::RequestError);
  cancel = false;
  EXPECT_FALSE(tokenizer->encode("short", false, Specials::kParse, &cancel).empty());
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel = true;
  });
  EXPECT_THROW(tokenizer->encode(word, false, Specials::kParse, &cancel), base::RequestError);
  later.join();
}

TEST(Tokenizer, TextThatIsNotUtf8IsRefused) {
  const auto tokenizer = load("byte_level");
  EXPECT_THROW(tokenizer->encode("a\xFF", false, Specials::kParse), base::RequestError);
}

TEST(Tokenizer, ManyThreadsShareOne) {
  const auto tokenizer = load("byte_level");
  const std::string text = "The river carries the boats to the sea. 안녕";
  const auto expected = tokenizer->encode(text, false, Specials::kParse);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const auto ids = tokenizer->encode(text, false, Specials::kParse);
        if (ids != expected || tokenizer->decode(ids, true) != text) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, RoundTripsTheDemoModel) {
  const auto tokenizer = Tokenizer::load(std::filesystem::path(MOESAIC_SOURCE_DIR) / "models/demo");
  const std::string text = "Hello, wörld! 안녕 <|im_end|>\n  1234";
  const auto parsed = tokenizer->encode(text, false, Specials::kParse);
  const auto plain = tokenizer->encode(text, false, Specials::kAsText);
  EXPECT_EQ(tokenizer->decode(parsed, false), text);
  EXPECT_EQ(tokenizer->decode(plain, true), text);
  EXPECT_GT(plain.size(), parsed.size());
}

}  // namespace
}  // namespace moesaic::text
