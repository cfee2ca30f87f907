// Every way in which a tokenizer's files can be wrong ends in an error that names the file.

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/text_testing.h"
#include "text/tokenizer.h"

namespace moesaic::text {
namespace {

namespace json = boost::json;

json::value good_tokenizer() {
  return json::parse(read_file(testdata() / "sentencepiece/tokenizer.json"));
}

/// The error's message when the folder's tokenizer does not load as a bad model file.
std::string refusal(const TempFolder& folder, const std::string& file = "tokenizer.json") {
  try {
    Tokenizer::load(folder.path());
  } catch (const base::ModelFileError& e) {
    EXPECT_EQ(e.exit_code(), base::ExitCode::kBadModel);
    EXPECT_EQ(e.file(), (folder.path() / file).string());
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another error: " << e.what();
    return {};
  }
  ADD_FAILURE() << "it loads";
  return {};
}

std::string refusal_of(const json::value& tokenizer) {
  const TempFolder folder;
  folder.write("tokenizer.json", json::serialize(tokenizer));
  return refusal(folder);
}

void expect_has(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(TokenizerFiles, MissingIsAnErrorOfItsOwn) {
  const TempFolder folder;
  EXPECT_THROW(Tokenizer::load(folder.path()), base::MissingFileError);
  EXPECT_THROW(Tokenizer::load(folder.path() / "nowhere"), base::MissingFileError);
  std::filesystem::create_directory(folder.path() / "tokenizer.json");
  EXPECT_THROW(Tokenizer::load(folder.path()), base::MissingFileError);
}

TEST(TokenizerFiles, EveryTruncationIsRefused) {
  const std::string whole = json::serialize(good_tokenizer());
  const TempFolder folder;
  for (size_t size = 0; size + 1 < whole.size(); size += 1 + whole.size() / 97) {
    folder.write("tokenizer.json", whole.substr(0, size));
    refusal(folder);
  }
}

TEST(TokenizerFiles, OtherJsonIsRefused) {
  const TempFolder folder;
  for (const char* text :
       {"not json", "[]", "3", "null", "{}", R"({"model": null})", R"({"model": {}})",
        R"({"model": {"type": "BPE"}})", R"({"model": {"type": "BPE", "vocab": {}, "merges": []}})",
        R"({"model": {"type": "Nonsense", "vocab": {"a": 0}}})",
        R"({"model": {"type": "BPE", "vocab": 3, "merges": []}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "?"}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": 3})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "normalizer": {"type": 1}})",
        R"({"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}})", "\xFF\xFE{}"}) {
    SCOPED_TRACE(text);
    folder.write("tokenizer.json", text);
    refusal(folder);
  }
  folder.write("tokenizer.json", std::string(100000, '['));
  refusal(folder);
}

TEST(TokenizerFiles, TwoGigabytesAreNotRead) {
  const TempFolder folder;
  const auto path = folder.write("tokenizer.json", "{");
  std::filesystem::resize_file(path, uint64_t{2} << 30);
  expect_has(refusal(folder), "bytes");
}

TEST(TokenizerFiles, IdsAreChecked) {
  const auto with_id = [](const char* token, int64_t id) {
    json::value file = good_tokenizer();
    file.at("model").at("vocab").as_object()[token] = id;
    return refusal_of(file);
  };
  expect_has(with_id("new", 5), "another token");
  expect_has(with_id("new", -1), "negative");
  expect_has(with_id("new", int64_t{1} << 22), "ids end below 4194304");
  expect_has(with_id("new", std::numeric_limits<int64_t>::max()), "ids end below");

  json::value twice = good_tokenizer();
  std::string text = json::serialize(twice);
  const std::string entry = R"("<0x41>":68)";
  const size_t at = text.find(entry);
  ASSERT_NE(at, std::string::npos);
  text.insert(at, R"("<0x41>":100000,)");
  const TempFolder folder;
  folder.write("tokenizer.json", text);
  expect_has(refusal(folder), "twice");
}

TEST(TokenizerFiles, AddedTokensAreChecked) {
  const auto with_added = [](const char* content, int64_t id) {
    json::value file = good_tokenizer();
    json::value token = file.at("added_tokens").at(0);
    token.at("content") = content;
    token.at("id") = id;
    file.at("added_tokens").as_array().push_back(token);
    return refusal_of(file);
  };
  expect_has(with_added("<new>", 1), "which token");
  expect_has(with_added("<new>", 100), "which token");
  expect_has(with_added("<s>", 100000), "two ids");
  expect_has(with_added("<new>", -7), "negative");
  expect_has(with_added("<new>", int64_t{1} << 31), "ids end below");
  expect_has(with_added("<new>", 100000), "holes");
}

TEST(TokenizerFiles, MergesAreChecked) {
  const auto with_merge = [](const json::value& merge) {
    json::value file = good_tokenizer();
    file.at("model").at("merges").as_array().push_back(merge);
    return refusal_of(file);
  };
  expect_has(with_merge(json::array{"nobody", "knows"}), "not in the vocabulary");
  expect_has(with_merge(json::array{"t", "<s>"}), "not in the vocabulary");
  expect_has(with_merge(json::array{"", "t"}), "joins nothing");
  with_merge(json::array{"t"});
  with_merge(json::array{"t", "h", "e"});
  expect_has(with_merge("no-space"), "two tokens");
}

TEST(TokenizerFiles, ByteTokensAreChecked) {
  for (const char* token : {"<0xZZ>", "<0x-1>", "<0x+1>", "<0x100>", "<0x>", "<0x1>"}) {
    json::value file = good_tokenizer();
    file.at("model").at("vocab").as_object()[token] = 456;
    expect_has(refusal_of(file), "byte token");
  }
}

TEST(TokenizerFiles, PostProcessorsAreChecked) {
  json::value file = good_tokenizer();
  file.at("post_processor").at("special_tokens").at("<s>").at("ids").at(0) = 99999;
  expect_has(refusal_of(file), "99999");
  file = good_tokenizer();
  file.at("post_processor").at("special_tokens").at("<s>").at("ids").at(0) = -1;
  refusal_of(file);
}

TEST(TokenizerFiles, ConfigsAreChecked) {
  const TempFolder folder;
  folder.write("tokenizer.json", json::serialize(good_tokenizer()));
  for (const char* text :
       {"{", "[]", "3", R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
        R"({"added_tokens_decoder": {"-1": {"content": "a"}}})",
        R"({"added_tokens_decoder": {"1": {}}})", R"({"bos_token": 3})", R"({"x": 1, "x": 2})"}) {
    SCOPED_TRACE(text);
    folder.write("tokenizer_config.json", text);
    refusal(folder, "tokenizer_config.json");
  }
  // Odd values that no token comes from are not a reason to refuse a model.
  folder.write("tokenizer_config.json", R"({"eos_token": null, "x": [1]})");
  EXPECT_EQ(Tokenizer::load(folder.path())->eos_id(), std::nullopt);
}

TEST(TokenizerFiles, DamagedFilesNeverCrash) {
  const std::string whole = json::serialize(good_tokenizer());
  const TempFolder folder;
  uint64_t seed = 1;
  const auto next = [&seed] {
    return (seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33;
  };
  for (int round = 0; round < 300; ++round) {
    std::string text = whole;
    for (uint64_t change = 0; change <= next() % 4; ++change) {
      const size_t at = next() % text.size();
      const std::string_view parts[] = {"",       "0", "-", "\"", "null", "{}", "[", "999999999999",
                                        "\\u0000"};
      text.replace(at, next() % 6, parts[next() % std::size(parts)]);
    }
    folder.write("tokenizer.json", text);
    try {
      const auto tokenizer = Tokenizer::load(folder.path());
      const auto ids = tokenizer->encode("The letter 한", true, Tokenizer::Specials::kParse);
      tokenizer->decode(ids, false);
    } catch (const base::ModelFileError&) {
    }
  }
}

}  // namespace
}  // namespace moesaic::text
