#include "model/prepared_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <random>

#include "base/error.h"
#include "model/loader_testing.h"

namespace moesaic::model {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::testing::read_file;
using checkpoint::testing::TempFolder;
using checkpoint::testing::write_file;
using tensor::DType;
using testing::bytes_of;
using testing::FakeBackend;

/// A model folder and a cache folder.
class PreparedCacheTest : public ::testing::Test {
 protected:
  PreparedCacheTest() : layout_(testing::small_layout(DType::kBF16)) {
    testing::write_checkpoint(model_.path(), testing::tensors_for(layout_, DType::kF32));
  }

  LoadedWeights load(FakeBackend& backend, const WeightLayout& layout, fs::path cache) {
    LoadOptions options;
    options.cache_folder = std::move(cache);
    base::ThreadPool pool(4, /*pin=*/false);
    return load_weights(layout, backend, pool, Checkpoint::open(model_.path()), options);
  }
  LoadedWeights load(FakeBackend& backend) { return load(backend, layout_, cache_ / "weights"); }

  std::vector<fs::path> cache_files() const {
    std::vector<fs::path> files;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(cache_ / "weights", error)) {
      files.push_back(entry.path());
    }
    return files;
  }

  WeightLayout layout_;
  TempFolder model_, cache_;
};

TEST_F(PreparedCacheTest, SecondStartReadsTheSameBytesAndPacksNothing) {
  FakeBackend first;
  const LoadedWeights cold = load(first);
  EXPECT_EQ(cold.source, LoadSource::kCheckpoint);
  EXPECT_GT(first.packs, 0);
  ASSERT_EQ(cache_files().size(), 1U);
  EXPECT_TRUE(cache_files()[0].string().ends_with(".moesaic"));

  FakeBackend second;
  const LoadedWeights warm = load(second);
  EXPECT_EQ(warm.source, LoadSource::kPreparedCache);
  EXPECT_EQ(second.packs, 0);
  EXPECT_EQ(bytes_of(second, warm.buffer), bytes_of(first, cold.buffer));
  EXPECT_EQ(warm.ignored, cold.ignored);
}

TEST_F(PreparedCacheTest, NoFolderMeansNoFile) {
  FakeBackend backend;
  load(backend, layout_, {});
  base::ThreadPool pool(1);
  make_dummy_weights(layout_, backend, pool, 1,
                     {.cache_folder = cache_ / "weights", .progress = {}});
  EXPECT_TRUE(cache_files().empty());
}

TEST_F(PreparedCacheTest, WhatChangesTheWeightsMakesANewFileAndRemovesTheOld) {
  FakeBackend backend;
  load(backend);
  fs::path before = cache_files().at(0);
  const auto expect_new = [&](const LoadedWeights& loaded, const char* what) {
    EXPECT_EQ(loaded.source, LoadSource::kCheckpoint) << what;
    const auto files = cache_files();
    ASSERT_EQ(files.size(), 1U) << what;
    EXPECT_NE(files[0], before) << what;
    before = files[0];
  };
  FakeBackend other_layout("fake-2");
  expect_new(load(other_layout), "layout");
  const WeightLayout f32 = testing::small_layout(DType::kF32);
  expect_new(load(backend, f32, cache_ / "weights"), "dtype");
  auto tensors = testing::tensors_for(layout_, DType::kF32);
  tensors["model.norm.weight"].values[0] += 1;
  testing::write_checkpoint(model_.path(), tensors);
  expect_new(load(backend), "content");
}

TEST_F(PreparedCacheTest, OtherModelsFilesAndStrangersStay) {
  fs::create_directories(cache_ / "weights");
  write_file(cache_ / "weights/0000000000000000-0000000000000000.moesaic", "another model's");
  write_file(cache_ / "weights/notes.txt", "mine");
  FakeBackend backend;
  load(backend);
  EXPECT_EQ(cache_files().size(), 3U);
}

struct Damage {
  const char* what;
  std::function<void(std::string&)> apply;
};

TEST_F(PreparedCacheTest, AnyDamageFallsBackToConverting) {
  FakeBackend backend;
  const std::string good = bytes_of(backend, load(backend).buffer);
  const fs::path path = cache_files().at(0);
  const std::string file = read_file(path);
  std::mt19937 random(7);
  std::vector<Damage> cases = {
      {"empty", [](std::string& f) { f.clear(); }},
      {"one byte", [](std::string& f) { f.resize(1); }},
      {"header only", [](std::string& f) { f.resize(56); }},
      {"last byte missing", [](std::string& f) { f.pop_back(); }},
      {"a byte more", [](std::string& f) { f += 'x'; }},
      {"half", [](std::string& f) { f.resize(f.size() / 2); }},
      {"not ours", [](std::string& f) { f = std::string(f.size(), 'z'); }},
      {"zeros", [](std::string& f) { f = std::string(f.size(), '\0'); }},
      {"newer version", [](std::string& f) { f[8] = 2; }},
      {"table damaged", [](std::string& f) { f[56] ^= 1; }},
      {"first data bit", [](std::string& f) { f[4096] ^= 1; }},
      {"last data bit", [](std::string& f) { f.back() = static_cast<char>(f.back() ^ 0x80); }},
  };
  for (int i = 0; i < 56; ++i) {
    cases.push_back({"header bit", [i](std::string& f) { f[static_cast<size_t>(i)] ^= 4; }});
  }
  for (int i = 0; i < 20; ++i) {
    const size_t at = 4096 + random() % (file.size() - 4096);
    cases.push_back({"data bit", [at](std::string& f) { f[at] ^= 16; }});
  }
  for (const Damage& damage : cases) {
    SCOPED_TRACE(damage.what);
    std::string broken = file;
    damage.apply(broken);
    write_file(path, broken);
    FakeBackend counting;
    const LoadedWeights loaded = load(counting);
    EXPECT_EQ(loaded.source, LoadSource::kCheckpoint);
    EXPECT_GT(counting.packs, 0);
    EXPECT_EQ(bytes_of(backend, loaded.buffer), good);
    EXPECT_EQ(read_file(path), file) << "was not repaired";
  }
}

TEST_F(PreparedCacheTest, AFileOfAnotherModelUnderOurNameIsRefused) {
  FakeBackend backend;
  const std::string good = bytes_of(backend, load(backend).buffer);
  const fs::path path = cache_files().at(0);
  auto tensors = testing::tensors_for(layout_, DType::kF32);
  tensors["model.norm.weight"].values[0] += 1;
  testing::write_checkpoint(model_.path(), tensors);
  load(backend);
  const fs::path other = cache_files().at(0);
  ASSERT_NE(other, path);
  const std::string foreign = read_file(other);
  testing::write_checkpoint(model_.path(), testing::tensors_for(layout_, DType::kF32));
  load(backend);
  write_file(cache_files().at(0), foreign);
  const LoadedWeights loaded = load(backend);
  EXPECT_EQ(loaded.source, LoadSource::kCheckpoint);
  EXPECT_EQ(bytes_of(backend, loaded.buffer), good);
}

TEST_F(PreparedCacheTest, AFolderOrLinkUnderTheNameIsNoCatastrophe) {
  FakeBackend backend;
  load(backend);
  const fs::path path = cache_files().at(0);
  fs::rename(path, cache_ / "elsewhere");
  fs::create_symlink(cache_ / "elsewhere", path);
  EXPECT_EQ(load(backend).source, LoadSource::kCheckpoint);
  EXPECT_EQ(load(backend).source, LoadSource::kPreparedCache);
  fs::remove(path);
  fs::create_directories(path / "full");
  EXPECT_EQ(load(backend).source, LoadSource::kCheckpoint);
}

TEST_F(PreparedCacheTest, ADiskThatCannotBeWrittenIsNoFailure) {
  FakeBackend backend;
  write_file(cache_ / "file", "x");
  EXPECT_EQ(load(backend, layout_, cache_ / "file").source, LoadSource::kCheckpoint);
  EXPECT_EQ(load(backend, layout_, cache_ / "file" / "below").source, LoadSource::kCheckpoint);
  EXPECT_EQ(load(backend, layout_, "/proc/moesaic-cache").source, LoadSource::kCheckpoint);
}

TEST_F(PreparedCacheTest, AWriteThatFailsMidwayLeavesNothing) {
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old_limit {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  struct rlimit limit = old_limit;
  limit.rlim_cur = 5000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  FakeBackend backend;
  const LoadSource source = load(backend).source;
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(source, LoadSource::kCheckpoint);
  EXPECT_TRUE(cache_files().empty());
  EXPECT_EQ(load(backend).source, LoadSource::kCheckpoint);
  EXPECT_EQ(load(backend).source, LoadSource::kPreparedCache);
}

TEST_F(PreparedCacheTest, AnAbandonedPartIsReusedAndAnotherWritersIsLeftAlone) {
  FakeBackend backend;
  load(backend);
  const fs::path path = cache_files().at(0);
  const fs::path part = path.string() + ".part";
  fs::remove(path);
  write_file(part, "left by a killed process");
  load(backend);
  EXPECT_TRUE(fs::exists(path));
  EXPECT_FALSE(fs::exists(part));

  fs::remove(path);
  write_file(part, "being written");
  const int fd = ::open(part.c_str(), O_RDWR);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  EXPECT_EQ(load(backend).source, LoadSource::kCheckpoint);
  EXPECT_FALSE(fs::exists(path));
  EXPECT_EQ(read_file(part), "being written");
  ::close(fd);
}

TEST_F(PreparedCacheTest, MemoryThatTheHostCannotReachIsWrittenAndReadToo) {
  FakeBackend plain;
  const std::string good = bytes_of(plain, load(plain).buffer);
  const std::string file = read_file(cache_files().at(0));
  fs::remove_all(cache_ / "weights");
  FakeBackend device("fake-1", /*opaque=*/true);
  EXPECT_EQ(bytes_of(device, load(device).buffer), good);
  EXPECT_EQ(read_file(cache_files().at(0)), file);
  FakeBackend warm("fake-1", /*opaque=*/true);
  const LoadedWeights loaded = load(warm);
  EXPECT_EQ(loaded.source, LoadSource::kPreparedCache);
  EXPECT_EQ(warm.packs, 0);
  EXPECT_EQ(bytes_of(warm, loaded.buffer), good);
}

TEST_F(PreparedCacheTest, EachRankHasItsFileAndLeavesTheOthersAlone) {
  FakeBackend backend;
  const fs::path folder = cache_ / "weights";
  const auto source = [&](const Shard& shard) {
    return load(backend, testing::small_layout(DType::kBF16, shard), folder).source;
  };
  for (int64_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(source({2, rank, false}), LoadSource::kCheckpoint);
  }
  EXPECT_EQ(cache_files().size(), 2U);
  for (int64_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(source({2, rank, false}), LoadSource::kPreparedCache);
  }
  // The same ranks with their experts dealt out otherwise, and then one alone.
  EXPECT_EQ(source({2, 1, true}), LoadSource::kCheckpoint);
  EXPECT_EQ(cache_files().size(), 2U) << "rank 1's old file is gone, rank 0's is not";
  EXPECT_EQ(source({2, 0, false}), LoadSource::kPreparedCache);
  EXPECT_EQ(source({}), LoadSource::kCheckpoint);
  EXPECT_EQ(cache_files().size(), 1U);
}

TEST_F(PreparedCacheTest, ManyProcessesAtOnceAgree) {
  FakeBackend backend;
  const std::string good = bytes_of(backend, load(backend, layout_, {}).buffer);
  for (int round = 0; round < 5; ++round) {
    fs::remove_all(cache_ / "weights");
    std::vector<pid_t> children;
    for (int i = 0; i < 6; ++i) {
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        bool same = true;
        for (int repeat = 0; repeat < 4; ++repeat) {
          FakeBackend mine;
          same = same && bytes_of(mine, load(mine).buffer) == good;
        }
        ::_exit(same ? 0 : 1);
      }
      children.push_back(child);
    }
    for (pid_t child : children) {
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    FakeBackend after;
    EXPECT_EQ(load(after).source, LoadSource::kPreparedCache);
    EXPECT_EQ(cache_files().size(), 1U);
  }
}

TEST(PreparedCache, ManyChunksKeepTheirPlaces) {
  for (const bool opaque : {false, true}) {
    TempFolder folder;
    const PreparedCache cache(
        folder.path(),
        {.folder = "f", .checkpoint = "c", .packing = "l", .layout = 1, .shard = {}});
    std::string bytes((size_t{20} << 20) + 4321, 0);
    std::mt19937 random(3);
    for (char& byte : bytes) byte = static_cast<char>(random());
    FakeBackend backend("l", opaque);
    base::ThreadPool pool(4, /*pin=*/false);
    const backend::Buffer buffer = backend.allocate(base::MemoryTag::kWeights, bytes.size());
    backend.write(buffer.address(), std::as_bytes(std::span(bytes)));
    cache.write(buffer, backend, pool);
    const backend::Buffer copy = backend.allocate(base::MemoryTag::kWeights, bytes.size());
    uint64_t last = 0;
    ASSERT_TRUE(cache.read(copy, backend, pool, [&](uint64_t done, uint64_t) { last = done; }));
    EXPECT_EQ(last, bytes.size());
    EXPECT_TRUE(bytes_of(backend, copy) == bytes);
    // Two chunks that changed places are not what was written.
    std::string file = read_file(cache.path());
    const size_t chunk = size_t{8} << 20;
    std::swap_ranges(file.begin() + 4096, file.begin() + 4096 + static_cast<ptrdiff_t>(chunk),
                     file.begin() + 4096 + static_cast<ptrdiff_t>(chunk));
    write_file(cache.path(), file);
    EXPECT_FALSE(cache.read(copy, backend, pool, {}));
  }
}

TEST(PreparedCache, FilesSayWhoseTheyAre) {
  const TempFolder folder;
  const std::pair<const char*, const char*> models[] = {
      {"/models/OLMoE-1B-7B", "OLMoE-1B-7B"},
      {"/models/it's mine/", "it_s_mine"},
      {"/hub/models--allenai--OLMoE/snapshots/0123abcd", "allenai--OLMoE"},
      {"/", "model"}};
  for (const auto& [model, name] : models) {
    const PreparedCache cache(
        folder.path(),
        {.folder = model, .checkpoint = "c", .packing = "l", .layout = 1, .shard = {}});
    write_file(cache.path(), "123");
    write_file(cache.path().string() + ".part", "12345");
    const std::vector<PreparedFile> files = prepared_files(folder.path());
    ASSERT_EQ(files.size(), 2U) << model;
    EXPECT_EQ(files[0].model, name);
    EXPECT_EQ(files[0].bytes, 3U);
    EXPECT_TRUE(files[0].finished);
    EXPECT_EQ(files[1].model, name);
    EXPECT_FALSE(files[1].finished);
    {
      const int writer = ::open(files[1].path.c_str(), O_RDWR);
      ASSERT_EQ(::flock(writer, LOCK_EX), 0);
      EXPECT_FALSE(remove_prepared_file(files[1])) << "somebody writes it";
      ::close(writer);
    }
    for (const PreparedFile& file : files) EXPECT_TRUE(remove_prepared_file(file));
  }
  write_file(folder.path() / "notes.txt", "mine");
  EXPECT_TRUE(prepared_files(folder.path()).empty());
  EXPECT_TRUE(prepared_files(folder.path() / "absent").empty());
}

TEST(PreparedCache, LayoutDigestSeesEveryChange) {
  const WeightLayout layout = testing::small_layout(DType::kBF16);
  EXPECT_EQ(layout_digest(layout), layout_digest(testing::small_layout(DType::kBF16)));
  const std::vector<std::function<void(WeightLayout&)>> changes = {
      [](WeightLayout& p) { p.bytes += 64; },
      [](WeightLayout& p) { p.embed.offset += 64; },
      [](WeightLayout& p) { p.embed.item.desc.format = DType::kF16; },
      [](WeightLayout& p) { p.embed.item.desc.k += 1; },
      [](WeightLayout& p) {
        std::swap(p.layers[0].qkv.item.slices[1], p.layers[0].qkv.item.slices[2]);
      },
      [](WeightLayout& p) { p.layers[0].experts.item.desc.width += 1; },
      [](WeightLayout& p) { p.layers[0].experts.item.down[2].name += "x"; },
      [](WeightLayout& p) { p.layers[0].experts.item.desc.down_format = DType::kF16; },
      [](WeightLayout& p) { p.embed.item.desc.format.group_k = 64; },
      [](WeightLayout& p) { p.final_norm.item.slices[0].rows += 1; },
      [](WeightLayout& p) { p.embed.item.slices[0].row += 1; },
      [](WeightLayout& p) { p.layers[0].o.item.slices[0].col += 1; },
      [](WeightLayout& p) { p.layers.pop_back(); },
      [](WeightLayout& p) { p.lm_head = {}; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    WeightLayout changed = layout;
    changes[i](changed);
    EXPECT_NE(layout_digest(changed), layout_digest(layout)) << i;
  }
}

}  // namespace
}  // namespace moesaic::model
