/// Who gets the lock of a run directory, whoever held it before.

#include "aq/io/run_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "aq/core/error.h"
#include "aq/io/file.h"
#include "aq/io/read_error.h"
#include "io/lock_file.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using testing::HasSubstr;

constexpr LockTimes kQuick{.beat_seconds = 0.05, .stale_seconds = 0.5};

void ignore(const std::string&) {}

class RunLockTest : public testing::Test {
 protected:
  std::filesystem::path file() const { return directory_.path() / "run.lock"; }
  /// A lock that some other process left there.
  void leave(const LockText& text) const { write_text_file(file(), format_lock(text)); }
  LockText own() const { return own_lock_text(directory_.path()); }
  LockText of_another_machine() const {
    LockText text = own();
    text.holder.host = "node7";
    text.holder.job = "42";
    text.machine = "node7 boot pid:[1]";
    return text;
  }
  std::string refusal() const {
    try {
      const RunLock lock(directory_.path(), ignore, kQuick);
      return "not refused";
    } catch (const Error& error) {
      return error.what();
    }
  }
  int files() const {
    return static_cast<int>(
        std::distance(std::filesystem::directory_iterator(directory_.path()), {}));
  }

  test::TemporaryDirectory directory_;
};

TEST_F(RunLockTest, IsHeldWhileItLives) {
  {
    const RunLock lock(directory_.path(), ignore, kQuick);
    EXPECT_THAT(refusal(), HasSubstr(str("process ", getpid(), " on ")));
    ASSERT_TRUE(look_at_lock(directory_.path(), kQuick).has_value());
    EXPECT_TRUE(look_at_lock(directory_.path(), kQuick)->alive);
  }
  EXPECT_FALSE(look_at_lock(directory_.path(), kQuick).has_value());
  EXPECT_EQ(files(), 0);
  EXPECT_EQ(refusal(), "not refused");
}

TEST_F(RunLockTest, OfAProcessThatIsGoneIsTakenAtOnce) {
  const pid_t child = fork();
  if (child == 0) {
    leave(own());
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(look_at_lock(directory_.path())->alive);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(), "not refused");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(400));
  EXPECT_EQ(files(), 0);
}

TEST_F(RunLockTest, OfAProcessNumberThatWasUsedAgainIsTaken) {
  LockText text = own();
  text.process_start -= 1;
  leave(text);
  EXPECT_EQ(refusal(), "not refused");
}

TEST_F(RunLockTest, OfAnotherMachineThatCountsIsRefused) {
  LockText text = of_another_machine();
  leave(text);
  std::atomic<bool> ended = false;
  std::thread other([&] {
    while (!ended) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ++text.count;
      leave(text);
    }
  });
  EXPECT_THAT(refusal(), HasSubstr("on node7 (job 42, since "));
  ended = true;
  other.join();
}

TEST_F(RunLockTest, OfAnotherMachineThatIsSilentIsTakenAfterAWhile) {
  leave(of_another_machine());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(), "not refused");
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(450));
}

TEST_F(RunLockTest, OfHalfATextIsTakenAfterAWhile) {
  write_text_file(file(), "half a lo");
  EXPECT_EQ(refusal(), "not refused");
}

TEST_F(RunLockTest, TakenFromAHolderTellsIt) {
  std::atomic<int> told = 0;
  const RunLock lock(
      directory_.path(),
      [&](const std::string& reason) {
        EXPECT_THAT(reason, HasSubstr("taken over by process"));
        ++told;
      },
      kQuick);
  leave(of_another_machine());
  for (int i = 0; i < 100 && told == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(told, 1);
}

/// Whatever the clocks of its host, of the file system and of this host say.
TEST_F(RunLockTest, OfAnotherMachineLivesIfAndOnlyIfItCounts) {
  for (const int seconds : {-120, 0, 120})
    for (const bool counts : {false, true}) {
      SCOPED_TRACE(str(seconds, " s, ", counts ? "counts" : "silent"));
      LockText text = of_another_machine();
      const auto leave_then = [&] {
        leave(text);
        std::filesystem::last_write_time(
            file(), std::filesystem::file_time_type::clock::now() + std::chrono::seconds(seconds));
      };
      leave_then();
      std::atomic<bool> ended = false;
      std::thread other([&] {
        while (counts && !ended) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          ++text.count;
          leave_then();
        }
      });
      const auto state = look_at_lock(directory_.path(), kQuick);
      ended = true;
      other.join();
      ASSERT_TRUE(state.has_value());
      EXPECT_EQ(state->alive, counts);
      EXPECT_FALSE(state->copied);
    }
}

TEST_F(RunLockTest, OfACopiedDirectoryIsToldAndTaken) {
  const RunLock lock(
      directory_.path(), [](const std::string& reason) { ADD_FAILURE() << reason; }, kQuick);
  const test::TemporaryDirectory copy;
  std::filesystem::copy(file(), copy / "run.lock");
  const auto state = look_at_lock(copy.path(), kQuick);
  ASSERT_TRUE(state.has_value());
  EXPECT_FALSE(state->alive);
  EXPECT_TRUE(state->copied);
  EXPECT_EQ(state->directory, std::filesystem::canonical(directory_.path()));
  const RunLock other(copy.path(), ignore, kQuick);
  EXPECT_TRUE(look_at_lock(copy.path(), kQuick)->alive);
  EXPECT_TRUE(look_at_lock(directory_.path(), kQuick)->alive);
}

TEST_F(RunLockTest, OfAMovedDirectoryIsNoCopy) {
  const std::filesystem::path before = directory_ / "before";
  std::filesystem::create_directory(before);
  const RunLock lock(before, ignore, LockTimes{.beat_seconds = 60});
  std::filesystem::rename(before, directory_ / "after");
  const auto state = look_at_lock(directory_ / "after", kQuick);
  ASSERT_TRUE(state.has_value());
  EXPECT_TRUE(state->alive);
  EXPECT_FALSE(state->copied);
}

/// Its holder may live: nothing is taken.
TEST_F(RunLockTest, ThatCannotBeReadIsLeftAlone) {
  std::filesystem::create_symlink("/proc/self/mem", file());
  EXPECT_THAT(refusal(), AllOf(HasSubstr(file().string()), HasSubstr("(errno 5)")));
  EXPECT_THROW(look_at_lock(directory_.path(), kQuick), ReadError);
  EXPECT_EQ(files(), 1);
}

/// Of many jobs that find a dead lock at the same time one gets it.
TEST_F(RunLockTest, OfADeadHolderGoesToOneOfMany) {
  LockText text = own();
  text.process_start -= 1;
  for (int round = 0; round < 20; ++round) {
    leave(text);
    std::atomic<int> holders = 0, most = 0, refused = 0;
    std::vector<std::thread> jobs;
    for (int i = 0; i < 4; ++i)
      jobs.emplace_back([&] {
        try {
          const RunLock lock(directory_.path(), ignore, kQuick);
          most = std::max<int>(most, ++holders);
          std::this_thread::sleep_for(std::chrono::milliseconds(30));
          --holders;
        } catch (const Error&) {
          ++refused;
        }
      });
    for (std::thread& job : jobs) job.join();
    EXPECT_EQ(most, 1);
  }
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace aq
