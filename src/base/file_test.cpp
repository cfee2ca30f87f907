#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/model_file.h"
#include "base/printable.h"

namespace moesaic::base {
namespace {

namespace fs = std::filesystem;

/// A new folder, removed with everything in it at the end of the test.
class FileTest : public testing::Test {
 protected:
  FileTest() {
    std::string pattern = (fs::temp_directory_path() / "moesaic-file-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = fs::canonical(pattern);
  }
  ~FileTest() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path write(const fs::path& name, const std::string& content) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }

  /// Everything but a regular file that can stand under a name.
  std::vector<fs::path> strangers() const {
    const fs::path fifo = folder_ / "fifo";
    EXPECT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const fs::path socket = folder_ / "socket";
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(fd);
    fs::create_directory(folder_ / "folder");
    fs::create_symlink("/dev/zero", folder_ / "device");
    fs::create_symlink(fifo, folder_ / "link");
    return {fifo, socket, folder_ / "folder", folder_ / "device", folder_ / "link", "/dev/tty"};
  }

  fs::path folder_;
};

TEST_F(FileTest, ReadsWhatIsThere) {
  EXPECT_EQ(read_file(write("a", "text"), 4), "text");
  EXPECT_EQ(read_file(write("a", "texts"), 4), std::nullopt);
  EXPECT_EQ(read_file(write("a", ""), 4), "");
  EXPECT_EQ(read_file(write("a", std::string(100000, 'x')), 1 << 20), std::string(100000, 'x'));
  // A file of /proc says that it has no bytes.
  EXPECT_EQ(read_file("/proc/self/comm", 100), read_file("/proc/self/comm", 1000));
  EXPECT_GT(read_file("/proc/self/maps", 1 << 20)->size(), 4096u);
  EXPECT_EQ(read_file("/proc/self/maps", 100), std::nullopt);
}

TEST_F(FileTest, WhatIsNoFileIsRefusedAtOnce) {
  EXPECT_THROW(read_file(folder_ / "none", 10), MissingFileError);
  EXPECT_THROW(read_file(folder_ / std::string(5000, 'x'), 10), MissingFileError);
  for (const fs::path& path : strangers()) {
    SCOPED_TRACE(path);
    EXPECT_THROW(read_file(path, 10), MissingFileError);
  }
}

#if !defined(MOESAIC_SANITIZE)  // whose checks need descriptors themselves
TEST_F(FileTest, NoDescriptorLeftIsTheSystemsFault) {
  const fs::path path = write("a", "text");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_THROW(read_file(path, 10), OsError);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}
#endif

TEST_F(FileTest, WritesAndReplaces) {
  write_file(folder_ / "a", "a longer text");
  write_file(folder_ / "a", "text");
  EXPECT_EQ(read_file(folder_ / "a", 100), "text");
  EXPECT_THROW(write_file(folder_ / "no" / "a", ""), MissingFileError);
  EXPECT_THROW(write_file("/dev/full", "x"), OsError);
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_THROW(write_file(folder_ / "fifo", "x"), MissingFileError);
}

TEST_F(FileTest, AFileAtItsSizeLimitIsAnError) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(write_file(folder_ / "a", std::string(1000, 'x')), OsError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_DFL);
}

class ModelFileTest : public FileTest {
 protected:
  std::string outcome(const fs::path& folder, const std::string& name) const {
    try {
      return read_model_file(folder, name, 1000).value_or("nothing");
    } catch (const Error& error) {
      return std::to_string(static_cast<int>(error.exit_code())) + " " + error.what();
    }
  }
};

TEST_F(ModelFileTest, ReadsTheFolderAndNoMore) {
  const fs::path model = folder_ / "model";
  write("model/a", "inside");
  write("model/sub/b", "deeper");
  write("secret", "secret");
  EXPECT_EQ(outcome(model, "a"), "inside");
  EXPECT_EQ(outcome(model, "sub/b"), "deeper");
  EXPECT_EQ(outcome(model, "none"), "nothing");
  EXPECT_EQ(outcome(model, "none/b"), "nothing");
  EXPECT_EQ(outcome(folder_ / "nowhere", "a"), "nothing");
  // Links within the folder, as volumes of Kubernetes have them.
  fs::create_symlink("sub/b", model / "link");
  fs::create_symlink(model / "sub", model / "folder_link");
  EXPECT_EQ(outcome(model, "link"), "deeper");
  EXPECT_EQ(outcome(model, "folder_link/b"), "deeper");
  // The folder itself may be reached by any way.
  fs::create_directory_symlink(model, folder_ / "current");
  EXPECT_EQ(outcome(folder_ / "current", "link"), "deeper");
}

TEST_F(ModelFileTest, LinksOutOfTheFolderAreRefusedWithTheirTarget) {
  const fs::path model = folder_ / "model";
  write("model/a", "inside");
  write("secret", "secret");
  write("outside/b", "secret");
  write("model2/a", "secret");
  fs::create_symlink(folder_ / "secret", model / "absolute");
  fs::create_symlink("../secret", model / "relative");
  fs::create_symlink("absolute", model / "twice");
  fs::create_symlink("../model2/a", model / "sister");
  fs::create_directory_symlink("../outside", model / "folder");
  fs::create_symlink("/etc/passwd", model / "passwd");
  const std::pair<const char*, fs::path> rows[] = {
      {"absolute", folder_ / "secret"},    {"relative", folder_ / "secret"},
      {"twice", folder_ / "secret"},       {"sister", folder_ / "model2/a"},
      {"folder/b", folder_ / "outside/b"}, {"passwd", "/etc/passwd"}};
  for (const auto& [name, target] : rows) {
    const std::string found = outcome(model, name);
    SCOPED_TRACE(found);
    EXPECT_TRUE(found.starts_with("65 "));
    for (const std::string& part : {(model / name).string(), target.string(),
                                    std::string("put the file itself in the folder")}) {
      EXPECT_NE(found.find(part), std::string::npos) << part;
    }
  }
}

TEST_F(ModelFileTest, ACacheOfTheHubIsOnePlace) {
  const fs::path repository = folder_ / "models--org--name";
  write("models--org--name/blobs/aaaa", "blob");
  write("models--org--name/snapshots/rev/plain", "plain");
  write("models--org--other/blobs/bbbb", "other");
  write("blobs/cccc", "not of a repository");
  const fs::path snapshot = repository / "snapshots/rev";
  fs::create_directory(snapshot / "sub");
  fs::create_symlink("../../blobs/aaaa", snapshot / "a");
  fs::create_symlink("../../../blobs/aaaa", snapshot / "sub/a");
  fs::create_symlink("../../../models--org--other/blobs/bbbb", snapshot / "other");
  fs::create_symlink("../../../blobs/cccc", snapshot / "out");
  EXPECT_EQ(outcome(snapshot, "a"), "blob");
  EXPECT_EQ(outcome(snapshot, "sub/a"), "blob");
  EXPECT_EQ(outcome(snapshot / "sub", "a"), "blob");
  EXPECT_EQ(outcome(snapshot, "plain"), "plain");
  EXPECT_TRUE(outcome(snapshot, "other").starts_with("65 "));
  EXPECT_TRUE(outcome(snapshot, "out").starts_with("65 "));
  // The same links in a folder that is no snapshot of a repository.
  fs::create_directories(folder_ / "plain/snapshots/rev");
  fs::create_symlink(repository / "blobs/aaaa", folder_ / "plain/snapshots/rev/a");
  EXPECT_TRUE(outcome(folder_ / "plain/snapshots/rev", "a").starts_with("65 "));
}

TEST_F(ModelFileTest, BrokenLinksAndStrangersAreTold) {
  fs::create_symlink("self", folder_ / "self");
  fs::create_symlink("void", folder_ / "dangling");
  EXPECT_TRUE(outcome(folder_, "self").starts_with("65 ")) << outcome(folder_, "self");
  EXPECT_NE(outcome(folder_, "self").find("back to itself"), std::string::npos);
  EXPECT_TRUE(outcome(folder_, "dangling").starts_with("66 "));
  write("large", std::string(1001, 'x'));
  EXPECT_TRUE(outcome(folder_, "large").starts_with("65 "));
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  fs::create_directory(folder_ / "folder");
  EXPECT_TRUE(outcome(folder_, "fifo").starts_with("66 "));
  EXPECT_TRUE(outcome(folder_, "folder").starts_with("66 "));
  EXPECT_TRUE(outcome(folder_, std::string(5000, 'x')).starts_with("66 "));
}

TEST(Printable, IsHarmlessAndShort) {
  EXPECT_EQ(printable("a\x1b[31m\n\xff"), "a?[31m??");
  EXPECT_EQ(printable(std::string(1000, 'x')), std::string(200, 'x') + "...");
}

}  // namespace
}  // namespace moesaic::base
