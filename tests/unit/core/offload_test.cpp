#include "aq/core/offload.h"

#include <gtest/gtest.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "aq/core/memory.h"
#include "support/expect_error.h"
#include "support/file_size_limit.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::FileSizeLimit;

namespace fs = std::filesystem;

constexpr std::size_t kBytes = std::size_t{8} << 20;

bool in_memory(const fs::path& directory) {
  struct statfs status {};
  return ::statfs(directory.c_str(), &status) == 0 && status.f_type == TMPFS_MAGIC;
}

/// In a directory of its own where the test runs, as that of temporary files may lie in memory.
class OffloadTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::current_path() / "offload-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    if (in_memory(directory_)) GTEST_SKIP() << "no disk here";
    offload_to(directory_);
  }
  void TearDown() override {
    offload_to({});
    fs::remove_all(directory_);
  }

  fs::path directory_;
};

TEST_F(OffloadTest, BlocksAreZerosThatKeepWhatIsWritten) {
  std::span<char> first(static_cast<char*>(take_file_block(kBytes)), kBytes);
  std::span<char> second(static_cast<char*>(take_file_block(kBytes + 5)), kBytes + 5);
  EXPECT_TRUE(std::ranges::all_of(first, [](char c) { return c == 0; }));
  std::ranges::fill(first, 'a');
  std::ranges::fill(second, 'b');
  EXPECT_TRUE(std::ranges::all_of(first, [](char c) { return c == 'a'; }));
  EXPECT_TRUE(std::ranges::all_of(second, [](char c) { return c == 'b'; }));
  EXPECT_EQ(offloaded_bytes().used, static_cast<Index>(2 * kBytes + 5));
  give_file_block(first.data(), kBytes);
  give_file_block(second.data(), kBytes + 5);
  EXPECT_EQ(offloaded_bytes().used, 0);
  EXPECT_EQ(offloaded_bytes().most_used, static_cast<Index>(2 * kBytes + 5));
}

/// Whether a file of this directory is mapped.
bool is_mapped(const fs::path& directory) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find(directory.string()) != std::string::npos) return true;
  return false;
}

TEST_F(OffloadTest, BlocksAreNoMemoryAndTheirSpaceIsReserved) {
  constexpr std::size_t kMany = std::size_t{128} << 20;
  const Index memory = resident_bytes();
  // Others may write to the same disk meanwhile.
  const fs::space_info before = fs::space(directory_);
  void* block = take_file_block(kMany);
  EXPECT_LT(fs::space(directory_).free, before.free - kMany / 2);
  std::fill_n(static_cast<char*>(block), kMany, 'x');
  EXPECT_LT(resident_bytes() - memory, static_cast<Index>(kMany / 8));
  EXPECT_TRUE(fs::is_empty(directory_)) << "a file has a name";
  EXPECT_TRUE(is_mapped(directory_));
  give_file_block(block, kMany);
  EXPECT_FALSE(is_mapped(directory_));
}

TEST_F(OffloadTest, NothingIsLeftBehindAKill) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::fill_n(static_cast<char*>(take_file_block(kBytes)), kBytes, 'x');
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(OffloadTest, WhatCannotBeReservedIsRefused) {
  {
    const FileSizeLimit limit(1 << 20);
    expect_input_error([] { take_file_block(kBytes); },
                       {directory_.string(), "8.0 MiB", "ulimit -f"});
  }
  const auto more = static_cast<std::size_t>(fs::space(directory_).capacity) + kBytes;
  expect_input_error([&] { take_file_block(more); },
                     {directory_.string(), "only", "free some", "--offload"});
  EXPECT_EQ(offloaded_bytes().used, 0);
}

TEST_F(OffloadTest, DirectoriesThatCannotBeUsedAreRefused) {
  expect_input_error([&] { offload_to(directory_ / "none"); },
                     {"none", "No such file", "--offload"});
  std::ofstream(directory_ / "file") << "x";
  expect_input_error([&] { offload_to(directory_ / "file"); }, {"file", "Not a directory"});
  if (in_memory("/dev/shm"))
    expect_input_error([] { offload_to("/dev/shm"); }, {"/dev/shm", "in memory", "on a disk"});
  offload_to({});
  EXPECT_FALSE(offloads());
}

}  // namespace
}  // namespace aq
