// GGUF files as checkpoints: found by file or folder, whole or in parts.

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_parts.h"
#include "checkpoint/gguf_testing.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::GgufWriter;
using testing::TempFolder;
using testing::write_file;
using Parts = std::vector<std::string>;

std::string whole(const std::vector<std::string>& tensors) {
  GgufWriter writer;
  writer.add_string("general.architecture", "llama");
  for (const std::string& name : tensors) writer.add_floats(name, {2}, {1, 2});
  return writer.bytes();
}

struct Part {
  uint16_t no = 0, count = 0;
  int32_t all = 0;  ///< tensors of all parts
  std::vector<std::string> tensors;
};

std::string bytes_of(const Part& part) {
  GgufWriter writer;
  writer.add_u16("split.no", part.no);
  writer.add_u16("split.count", part.count);
  writer.add_i32("split.tensors.count", part.all);
  if (part.no == 0) writer.add_string("general.architecture", "llama");
  for (const std::string& name : part.tensors) writer.add_floats(name, {2}, {1, 2});
  return writer.bytes();
}

void write_parts(const TempFolder& folder) {
  write_file(folder / "m-00001-of-00003.gguf", bytes_of({0, 3, 3, {}}));
  write_file(folder / "m-00002-of-00003.gguf", bytes_of({1, 3, 3, {"b", "c"}}));
  write_file(folder / "m-00003-of-00003.gguf", bytes_of({2, 3, 3, {"a"}}));
}

TEST(GgufParts, AreNamedByTheirNumbers) {
  EXPECT_EQ(gguf_parts("m.gguf"), (Parts{"m.gguf"}));
  EXPECT_EQ(gguf_parts("m-00002-of-00002.gguf"),
            (Parts{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}));
  for (const char* odd :
       {"m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-0001-of-00002.gguf",
        "m-00001-of-0000x.gguf", "m-00001_of-00002.gguf", "-00001-of-00002.bin", ".gguf", ""}) {
    EXPECT_EQ(gguf_parts(odd), (Parts{odd}));
  }
}

TEST(GgufParts, AFileOrTheOnlyOneOfAFolderIsOpened) {
  const TempFolder folder;
  write_file(folder / "m.gguf", whole({"t", "s"}));
  write_file(folder / "mmproj-m.gguf", "x");  // the encoder of images beside it
  write_file(folder / "config.json", "{}");
  fs::copy(folder / "m.gguf", folder / "renamed");
  for (const fs::path& path : {folder / "m.gguf", folder.path(), folder / "renamed"}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    ASSERT_NE(checkpoint.metadata(), nullptr);
    EXPECT_EQ(checkpoint.metadata()->string("general.architecture"), "llama");
    ASSERT_EQ(checkpoint.tensors().size(), 2U);
    EXPECT_EQ(checkpoint.tensors()[0].name, "s");
    EXPECT_EQ(checkpoint.path(), path == folder.path() ? folder / "m.gguf" : path);
  }
}

TEST(GgufParts, AnyPartStandsForAll) {
  const TempFolder folder;
  write_parts(folder);
  for (const fs::path& path :
       {folder.path(), folder / "m-00001-of-00003.gguf", folder / "m-00003-of-00003.gguf"}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_EQ(checkpoint.path(), folder / "m-00001-of-00003.gguf");
    EXPECT_EQ(checkpoint.metadata()->string("general.architecture"), "llama");
    ASSERT_EQ(checkpoint.tensors().size(), 3U);
    EXPECT_EQ(checkpoint.find("a")->file, (folder / "m-00003-of-00003.gguf").string());
    EXPECT_EQ(checkpoint.total_bytes(), 24U);
  }
}

TEST(GgufParts, SafetensorsComeFirst) {
  const TempFolder folder;
  write_file(folder / "m.gguf", whole({"t"}));
  EXPECT_TRUE(find_gguf(folder.path()));
  write_file(folder / "model.safetensors", "x");
  EXPECT_FALSE(find_gguf(folder.path()));
  EXPECT_TRUE(find_gguf(folder / "m.gguf"));
  EXPECT_FALSE(find_gguf(folder / "model.safetensors"));
  EXPECT_FALSE(find_gguf(folder / "absent.gguf"));
}

struct Bad {
  const char* what;
  std::function<void(const TempFolder&)> change;
  base::ExitCode code;
  const char* message;
};

TEST(GgufParts, WhatDoesNotFitTogetherIsRefused) {
  const auto file = [](const char* name, const std::string& content) {
    return [=](const TempFolder& folder) { write_file(folder / name, content); };
  };
  const char* first = "m-00001-of-00003.gguf";
  const char* second = "m-00002-of-00003.gguf";
  constexpr auto kBad = base::ExitCode::kBadModel;
  const std::vector<Bad> all = {
      {"a part is missing", [&](const TempFolder& f) { fs::remove(f / second); },
       base::ExitCode::kMissingFile, "1 of 3 parts are missing"},
      {"another model beside it", file("other.gguf", whole({"t"})), kBad, "has 2 GGUF models"},
      {"another part's content", file(second, bytes_of({2, 3, 3, {"a"}})), kBad, "'split.no' is 2"},
      {"of another count", file(second, bytes_of({1, 2, 3, {"b", "c"}})), kBad,
       "'split.count' is 2"},
      {"a whole file as a part", file(second, whole({"b", "c"})), kBad, "one of 3 parts"},
      {"a tensor in two parts", file(second, bytes_of({1, 3, 3, {"b", "a"}})), kBad, "too"},
      {"a tensor is missing", file(second, bytes_of({1, 3, 3, {"b"}})), kBad,
       "'split.tensors.count' is 3, but the parts hold 2"},
      {"first part damaged", file(first, "GGUF"), kBad, "truncated"},
  };
  for (const Bad& bad : all) {
    SCOPED_TRACE(bad.what);
    const TempFolder folder;
    write_parts(folder);
    bad.change(folder);
    try {
      Checkpoint::open(folder.path());
      ADD_FAILURE() << "was accepted";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.exit_code(), bad.code);
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
    }
  }
  const TempFolder folder;
  write_file(folder / "renamed.gguf", bytes_of({0, 3, 3, {"a"}}));
  EXPECT_THROW(Checkpoint::open(folder / "renamed.gguf"), base::ModelFileError);
}

}  // namespace
}  // namespace moesaic::checkpoint
