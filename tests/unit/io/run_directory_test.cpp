/// The last word of a run, also when the disk is full.

#include "aq/io/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "support/temporary_directory.h"

namespace aq {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using testing::StartsWith;

class RunDirectoryTest : public testing::Test {
 protected:
  void write(const std::string& state) const {
    write_status(run_, {.state = state, .message = "first rank", .host = "node1"});
  }
  /// Time of status.json after that of failure.json.
  void age(seconds difference) const {
    const auto time = std::filesystem::last_write_time(run_.failure());
    std::filesystem::last_write_time(run_.status(), time + difference);
  }
  std::string word() const {
    const RunStatus status = read_status(run_);
    return status.state + ": " + status.message;
  }
  /// Nothing can be written but what is there already.
  void fill_disk() const {
    std::filesystem::create_directory(run_.root / "failure.rank-1.json.partial");
  }

  test::TemporaryDirectory directory_;
  RunDirectory run_{directory_.path()};
};

TEST_F(RunDirectoryTest, RoomForALastWordIsNoWord) {
  write("running");
  make_room_for_failure(run_);
  EXPECT_EQ(word(), "running: first rank");
  write_failure(run_, 1, {"rank 1: a bug", "died"});
  EXPECT_EQ(word(), "died: rank 1: a bug");
  make_room_for_failure(run_);
  EXPECT_EQ(word(), "running: first rank");
  forget_failure(run_);
  EXPECT_EQ(word(), "running: first rank");
}

TEST_F(RunDirectoryTest, ALastWordNeedsNoSpace) {
  write("running");
  make_room_for_failure(run_);
  const auto size = std::filesystem::file_size(run_.failure());
  fill_disk();
  for (const char* state : {"stopped", "failed"}) {
    write_failure(run_, 1, {str(state, " \xff ", std::string(10000, '"')), state});
    EXPECT_THAT(word(), StartsWith(str(state, ": ", state)));
    EXPECT_GT(word().size(), 500u);
    EXPECT_EQ(std::filesystem::file_size(run_.failure()), size);
  }
  write_failure(run_, 1, {"what follows from it", "died"});
  EXPECT_THAT(word(), StartsWith("failed: failed"));
}

/// Clocks of hosts are not compared, times of files are.
TEST_F(RunDirectoryTest, TheFirstRankSpeaksWhenItsWordIsTheLast) {
  for (const Index clock : {-120, 0, 120}) {
    write("failed");
    write_failure(run_, 1, {"rank 1", "failed", clock});
    age(seconds(1));
    EXPECT_EQ(word(), "failed: first rank");
    age(seconds(-1));
    EXPECT_EQ(word(), "failed: rank 1");
  }
}

}  // namespace
}  // namespace aq
