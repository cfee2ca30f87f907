#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <set>
#include <thread>

#include "base/error.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/truncation_guard.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using testing::TempFolder;
using testing::write_file;

constexpr const char* kIndex = "model.safetensors.index.json";

std::string shard(const std::vector<std::string>& names) {
  testing::SafetensorsWriter writer;
  float value = 0;
  for (const std::string& name : names) {
    writer.add_floats(name, tensor::DType::kF32, {2}, {value, value + 1});
    value += 2;
  }
  return writer.bytes();
}

std::string index_of(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string lines;
  for (const auto& [name, file] : map) {
    if (!lines.empty()) lines += ',';
    lines.append("\"").append(name).append("\":\"").append(file).append("\"");
  }
  return R"({"metadata":{"total_size":1},"weight_map":{)" + lines + "}}";
}

/// Two shards s1 {a, c} and s2 {b}, well-formed.
void write_sharded(const fs::path& folder) {
  write_file(folder / "s1.safetensors", shard({"a", "c"}));
  write_file(folder / "s2.safetensors", shard({"b"}));
  write_file(folder / kIndex,
             index_of({{"a", "s1.safetensors"}, {"b", "s2.safetensors"}, {"c", "s1.safetensors"}}));
}

TEST(Checkpoint, OpensOneFile) {
  TempFolder folder;
  write_file(folder / "model.safetensors", shard({"x", "a"}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");
  EXPECT_EQ(checkpoint.total_bytes(), 16U);
  EXPECT_EQ(checkpoint.path(), folder.path());
  EXPECT_EQ(checkpoint.metadata(), nullptr);
  ASSERT_NE(checkpoint.find("x"), nullptr);
  EXPECT_EQ(checkpoint.find("x")->file, (folder / "model.safetensors").string());
  EXPECT_EQ(checkpoint.find("y"), nullptr);
  EXPECT_EQ(checkpoint.find(""), nullptr);
  EXPECT_NO_THROW(checkpoint.check_unchanged());
}

TEST(Checkpoint, OpensShardsAndReadsNoOtherFile) {
  TempFolder folder;
  write_sharded(folder.path());
  write_file(folder / "consolidated.safetensors", "rubbish");
  write_file(folder / "pytorch_model.bin", "rubbish");
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.tensors()[1].name, "b");
  EXPECT_EQ(tensor::load_float(tensor::DType::kF32, checkpoint.find("c")->view.data, 0), 2.0f);
  EXPECT_EQ(checkpoint.total_bytes(), 24U);
}

TEST(Checkpoint, FileNamedInTheIndexMayHaveAnyPlainName) {
  TempFolder folder;
  write_file(folder / "model..odd name.safetensors", shard({"a"}));
  write_file(folder / kIndex, index_of({{"a", "model..odd name.safetensors"}}));
  EXPECT_EQ(Checkpoint::open(folder.path()).tensors().size(), 1U);
}

struct BadFolder {
  const char* what;
  std::function<void(const fs::path& folder, const fs::path& outside)> make;
  ExitCode code;
  const char* message;
};

std::vector<BadFolder> bad_folders() {
  const auto bad = ExitCode::kBadModel;
  const auto absent = ExitCode::kMissingFile;
  const auto with_index = [](const std::string& text) {
    return [text](const fs::path& folder, const fs::path&) {
      write_sharded(folder);
      write_file(folder / kIndex, text);
    };
  };
  const auto named = [&](const std::string& file) { return with_index(index_of({{"a", file}})); };
  return {
      {"nothing", [](auto&, auto&) {}, absent, "no model.safetensors"},
      {"pickle only", [](auto& f, auto&) { write_file(f / "pytorch_model.bin", "x"); }, absent,
       "convert it to safetensors"},
      {"GGUF cut short", [](auto& f, auto&) { write_file(f / "m.gguf", "GGUF"); }, bad,
       "truncated"},
      {"shards without index", [](auto& f, auto&) { write_file(f / "m-1.safetensors", "x"); },
       absent, "index that names its parts"},
      {"empty file", [](auto& f, auto&) { write_file(f / "model.safetensors", ""); }, bad, "empty"},
      {"folder as file", [](auto& f, auto&) { fs::create_directory(f / "model.safetensors"); },
       absent, "not a regular file"},
      {"FIFO as file",
       [](auto& f, auto&) { ASSERT_EQ(::mkfifo((f / "model.safetensors").c_str(), 0600), 0); },
       absent, "not a regular file"},
      {"file links out",
       [](auto& f, auto& out) {
         write_file(out / "m", shard({"a"}));
         fs::create_symlink(out / "m", f / "model.safetensors");
       },
       bad, "outside the model's folder"},
      {"index is empty", with_index(""), bad, "empty"},
      {"index is not JSON", with_index("hello"), bad, "not valid JSON"},
      {"index is an LFS pointer", with_index("version https://git-lfs.github.com/spec/v1\n"), bad,
       "git lfs pull"},
      {"index without map", with_index("{}"), bad, "weight_map"},
      {"map is a list", with_index(R"({"weight_map":[]})"), bad, "weight_map"},
      {"map is empty", with_index(R"({"weight_map":{}})"), bad, "is empty"},
      {"map to a number", with_index(R"({"weight_map":{"a":1}})"), bad, "not a string"},
      {"tensor listed twice",
       with_index(R"({"weight_map":{"a":"s1.safetensors","a":"s2.safetensors"}})"), bad, "twice"},
      {"shard climbs out", named("../s1.safetensors"), bad, "not the name of"},
      {"shard climbs deep", named("../../etc/x.safetensors"), bad, "not the name of"},
      {"shard in a subfolder", named("sub/s1.safetensors"), bad, "not the name of"},
      {"shard absolute", named("/etc/s1.safetensors"), bad, "not the name of"},
      {"shard with backslash", named("..\\\\s1.safetensors"), bad, "not the name of"},
      {"shard with NUL", named("s1\\u0000.safetensors"), bad, "not the name of"},
      {"shard hidden", named(".safetensors"), bad, "not the name of"},
      {"shard empty", named(""), bad, "not the name of"},
      {"shard is a pickle", named("pytorch_model.bin"), bad, "not the name of"},
      {"index names itself", named(kIndex), bad, "not the name of"},
      {"shard with a huge name", named(std::string(5000, 'x') + ".safetensors"), bad,
       "not the name of"},
      {"shard missing", with_index(index_of({{"a", "s1.safetensors"}, {"b", "gone.safetensors"}})),
       absent, "1 of 2 shards are missing"},
      {"index links out",
       [](auto& f, auto& out) {
         write_sharded(out);
         fs::create_symlink(out / kIndex, f / kIndex);
       },
       bad, "outside the model's folder"},
      {"shard links out",
       [](auto& f, auto& out) {
         write_sharded(f);
         fs::rename(f / "s1.safetensors", out / "s1.safetensors");
         fs::create_symlink(out / "s1.safetensors", f / "s1.safetensors");
       },
       bad, "outside the model's folder"},
      {"shard links to a device",
       [](auto& f, auto&) {
         write_sharded(f);
         fs::remove(f / "s1.safetensors");
         fs::create_symlink("/dev/zero", f / "s1.safetensors");
       },
       bad, "outside the model's folder"},
      {"shard links to itself",
       [](auto& f, auto&) {
         write_sharded(f);
         fs::remove(f / "s1.safetensors");
         fs::create_symlink("s1.safetensors", f / "s1.safetensors");
       },
       bad, "leads back to itself"},
      {"shard link dangles",
       [](auto& f, auto&) {
         write_sharded(f);
         fs::remove(f / "s1.safetensors");
         fs::create_symlink("nowhere", f / "s1.safetensors");
       },
       absent, "does not exist"},
      {"shard is a folder",
       [](auto& f, auto&) {
         write_sharded(f);
         fs::remove(f / "s1.safetensors");
         fs::create_directory(f / "s1.safetensors");
       },
       absent, "not a regular file"},
      {"tensor listed but absent",
       with_index(index_of({{"a", "s1.safetensors"},
                            {"b", "s2.safetensors"},
                            {"c", "s1.safetensors"},
                            {"d", "s2.safetensors"}})),
       bad, "tensor 'd': model.safetensors.index.json says it is here"},
      {"tensor not listed",
       with_index(index_of({{"a", "s1.safetensors"}, {"b", "s2.safetensors"}})), bad,
       "tensor 'c' at byte"},
      {"tensor in two shards",
       [](auto& f, auto&) {
         write_sharded(f);
         write_file(f / "s2.safetensors", shard({"b", "c"}));
       },
       bad, "also in s1.safetensors"},
      {"shard truncated",
       [](auto& f, auto&) {
         write_sharded(f);
         fs::resize_file(f / "s2.safetensors", fs::file_size(f / "s2.safetensors") - 1);
       },
       bad, "truncated"},
  };
}

TEST(Checkpoint, RefusesEveryBadFolder) {
  for (const BadFolder& bad : bad_folders()) {
    SCOPED_TRACE(bad.what);
    TempFolder folder;
    TempFolder outside;
    bad.make(folder.path(), outside.path());
    try {
      Checkpoint::open(folder.path());
      ADD_FAILURE() << "was accepted";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.exit_code(), bad.code) << error.what();
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
      EXPECT_LT(std::string(error.what()).size(), 2000U);
    }
  }
  EXPECT_THROW(Checkpoint::open("/nonexistent/folder"), base::MissingFileError);
  TempFolder folder;
  write_file(folder / "file", "x");
  EXPECT_THROW(Checkpoint::open(folder / "file"), base::MissingFileError);
}

TEST(Checkpoint, MillionShardsAreRefusedQuickly) {
  TempFolder folder;
  std::string lines;
  for (int i = 0; i < 1'000'000; ++i) {
    const std::string n = std::to_string(i);
    if (i > 0) lines += ',';
    lines.append("\"t").append(n).append("\":\"s").append(n).append(".safetensors\"");
  }
  write_file(folder / kIndex, R"({"weight_map":{)" + lines + "}}");
  const auto start = std::chrono::steady_clock::now();
  try {
    Checkpoint::open(folder.path());
    FAIL();
  } catch (const base::ModelFileError& error) {
    EXPECT_NE(std::string(error.what()).find("more than 4096 shards"), std::string::npos);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Checkpoint, HuggingFaceCacheLinksAreFollowed) {
  TempFolder hub;
  const fs::path repository = hub / "models--org--name";
  const fs::path snapshot = repository / "snapshots" / "0123abcd";
  fs::create_directories(snapshot);
  fs::create_directories(repository / "blobs");
  write_file(repository / "blobs" / "aaaa", shard({"a"}));
  write_file(repository / "blobs" / "bbbb", index_of({{"a", "s1.safetensors"}}));
  fs::create_symlink("../../blobs/aaaa", snapshot / "s1.safetensors");
  fs::create_symlink("../../blobs/bbbb", snapshot / kIndex);
  EXPECT_EQ(Checkpoint::open(snapshot).tensors().size(), 1U);
  // Through a link to the snapshot too.
  fs::create_symlink(snapshot, hub / "current");
  EXPECT_EQ(Checkpoint::open(hub / "current").tensors().size(), 1U);

  // The blobs of another repository, or of a folder that is no repository, are not ours.
  const fs::path other = hub / "models--org--other" / "snapshots" / "1";
  fs::create_directories(other);
  fs::create_symlink(repository / "blobs" / "aaaa", other / "model.safetensors");
  EXPECT_THROW(Checkpoint::open(other), base::ModelFileError);
  const fs::path plain = hub / "plain" / "snapshots" / "1";
  fs::create_directories(plain);
  fs::create_directories(hub / "plain" / "blobs");
  write_file(hub / "plain" / "blobs" / "x", shard({"a"}));
  fs::create_symlink("../../blobs/x", plain / "model.safetensors");
  EXPECT_THROW(Checkpoint::open(plain), base::ModelFileError);
}

TEST(Checkpoint, LinksInsideTheFolderAreFollowed) {
  TempFolder folder;
  fs::create_directory(folder / "..data");
  write_file(folder / "..data/m", shard({"a"}));
  fs::create_symlink("..data/m", folder / "model.safetensors");
  EXPECT_EQ(Checkpoint::open(folder.path()).tensors().size(), 1U);
  // A folder whose name merely begins like ours is outside.
  const fs::path twin = folder.path().string() + "-twin";
  fs::create_directory(twin);
  write_file(twin / "m", shard({"a"}));
  fs::remove(folder / "model.safetensors");
  fs::create_symlink(twin / "m", folder / "model.safetensors");
  EXPECT_THROW(Checkpoint::open(folder.path()), base::ModelFileError);
  fs::remove_all(twin);
}

void set_time(const fs::path& path, int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(Checkpoint, FingerprintFollowsPathSizeTimeAndContent) {
  TempFolder folder;
  const fs::path file = folder / "model.safetensors";
  write_file(file, shard({"a"}));
  set_time(file, 1000);
  const std::string first = Checkpoint::open(folder.path()).fingerprint();
  EXPECT_EQ(first.size(), 32U);
  EXPECT_EQ(Checkpoint::open(folder.path()).fingerprint(), first);

  set_time(file, 1001);
  EXPECT_NE(Checkpoint::open(folder.path()).fingerprint(), first);

  std::string changed = shard({"a"});
  changed.back() = static_cast<char>(changed.back() ^ 1);
  write_file(file, changed);
  set_time(file, 1000);
  EXPECT_NE(Checkpoint::open(folder.path()).fingerprint(), first);

  write_file(file, shard({"a", "b"}));
  set_time(file, 1000);
  EXPECT_NE(Checkpoint::open(folder.path()).fingerprint(), first);

  TempFolder elsewhere;
  write_file(elsewhere / "model.safetensors", shard({"a"}));
  set_time(elsewhere / "model.safetensors", 1000);
  EXPECT_NE(Checkpoint::open(elsewhere.path()).fingerprint(), first);
}

TEST(Checkpoint, FingerprintFollowsAChangeThatSizeTimeAndSamplesHide) {
  TempFolder folder;
  const fs::path file = folder / "model.safetensors";
  // Sampled pages are 16 of some hundred.
  testing::SafetensorsWriter writer;
  writer.add_floats("a", tensor::DType::kF32, {250'000}, std::vector<float>(250'000));
  std::string content = writer.bytes();
  write_file(file, content);
  set_time(file, 1000);
  const std::string first = Checkpoint::open(folder.path()).fingerprint();
  std::set<std::string> seen = {first};
  const auto expect_new = [&](const char* how) {
    set_time(file, 1000);
    EXPECT_TRUE(seen.insert(Checkpoint::open(folder.path()).fingerprint()).second) << how;
    // The kernel's clock for files moves in ticks.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  content[100'000] = 1;
  write_file(file, content);
  expect_new("written in place");
  {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(100'001);
    stream.put(1);
  }
  expect_new("one byte written in place");
  content[100'002] = 1;
  write_file(folder / "new", content);
  set_time(folder / "new", 1000);
  fs::rename(folder / "new", file);
  expect_new("another file moved into its place");
  write_file(folder / "copy", content);
  fs::remove(file);
  fs::copy_file(folder / "copy", file);
  expect_new("removed and copied");
}

TEST(Checkpoint, NoticesAFileWrittenToAfterOpening) {
  TempFolder folder;
  const fs::path file = folder / "model.safetensors";
  write_file(file, shard({"a"}));
  set_time(file, 1000);
  {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    fs::resize_file(file, 10);
    EXPECT_THROW(checkpoint.check_unchanged(), base::ModelFileError);
  }
  write_file(file, shard({"a"}));
  set_time(file, 1000);
  {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    set_time(file, 2000);
    EXPECT_THROW(checkpoint.check_unchanged(), base::ModelFileError);
  }
  {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    fs::remove(file);
    write_file(file, "replaced by another");
    EXPECT_NO_THROW(checkpoint.check_unchanged());
    EXPECT_EQ(tensor::load_float(tensor::DType::kF32, checkpoint.find("a")->view.data, 1), 1.0f);
  }
}

TEST(TruncationGuardDeathTest, ReadingACutFileExitsWithAMessage) {
  TempFolder folder;
  testing::SafetensorsWriter writer;
  writer.add("big", "U8", {1 << 20}, std::string(1 << 20, 'x'));
  write_file(folder / "model.safetensors", writer.bytes());
  EXPECT_EXIT(
      {
        const Checkpoint checkpoint = Checkpoint::open(folder.path());
        fs::resize_file(folder / "model.safetensors", 4096);
        const TruncationGuard guard;
        volatile auto byte = checkpoint.find("big")->view.data[(1 << 20) - 1];
        static_cast<void>(byte);
      },
      ::testing::ExitedWithCode(70), "cut short while it was being read");
}

}  // namespace
}  // namespace moesaic::checkpoint
