#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "aq/core/log.h"
#include "aq/core/matrix_view.h"
#include "aq/core/memory.h"
#include "aq/core/stop.h"
#include "aq/core/timer.h"

namespace aq {
namespace {

TEST(Log, WritesOnlyWhatTheLevelAllows) {
  set_log_prefix("rank 3: ");
  set_log_level(LogLevel::warning);
  testing::internal::CaptureStderr();
  log_error("a");
  log_warning("b");
  log_info("c");
  log_debug("d");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "rank 3: error: a\nrank 3: warning: b\n");
  set_log_prefix("");
  set_log_level(LogLevel::debug);
  testing::internal::CaptureStderr();
  log_info("c");
  log_debug("d");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "c\nd\n");
  set_log_level(LogLevel::info);
}

/// In a process of its own: handlers and the flag stay.
TEST(StopDeathTest, TheFirstSignalSetsAFlagALaterOneEnds) {
  for (const int seconds : {0, 3600})  // at once, and never in this test
    for (const int signal : {SIGUSR1, SIGTERM})
      EXPECT_EXIT(
          {
            install_stop_handlers(seconds);
            if (stop_requested()) _Exit(1);
            std::raise(signal);
            if (!stop_requested()) _Exit(2);
            std::raise(SIGTERM);
            _Exit(3);
          },
          testing::ExitedWithCode(seconds == 0 ? 75 : 3), "");
}

TEST(Memory, ResidentBytesFollowWhatIsTouched) {
  constexpr Index kBytes = Index{24} << 20;
  const Index before = resident_bytes();
  ASSERT_GT(before, 0);
  std::vector<char> memory(kBytes, 1);
  const Index grown = resident_bytes() - before;
  EXPECT_GT(grown, kBytes * 9 / 10) << memory[77];
  EXPECT_LT(grown, kBytes * 3 / 2);
  EXPECT_GT(available_bytes(), 0);
}

/// A tree of control groups in a directory of its own.
class ControlGroups : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(testing::TempDir()) /
            ("aq-groups-" + std::to_string(getpid()) + "-" +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  std::optional<Index> left() { return control_group_bytes(root_ / "of-process", root_); }

  std::filesystem::path root_;
};

TEST_F(ControlGroups, TheLimitOfAnOuterGroupCounts) {
  write("of-process", "0::/slurm/job_7/step_0/task_1");
  write("slurm/job_7/step_0/task_1/memory.max", "max");
  write("slurm/job_7/step_0/memory.max", "9000");
  write("slurm/job_7/memory.max", "5000");
  write("slurm/job_7/memory.current", "1500");
  write("slurm/job_7/memory.stat", "anon 700\nfile 800\ninactive_file 500\nactive_file 200");
  EXPECT_EQ(left(), 5000 - (1500 - 700));
}

TEST_F(ControlGroups, VersionOneHasItsOwnNames) {
  write("of-process", "5:cpu,cpuacct:/a\n4:memory:/slurm/job_7\n0::/");
  write("memory/slurm/memory.limit_in_bytes", "9223372036854771712");
  write("memory/slurm/job_7/memory.limit_in_bytes", "4000");
  write("memory/slurm/job_7/memory.usage_in_bytes", "1000");
  write("memory/slurm/job_7/memory.stat",
        "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50");
  EXPECT_EQ(left(), 4000 - (1000 - 150));
}

TEST_F(ControlGroups, InAContainerTheRootIsTheGroup) {
  write("of-process", "0::/../not/seen/here");
  write("memory.max", "4000");
  write("memory.current", "5000");
  EXPECT_EQ(left(), 1);
}

TEST_F(ControlGroups, NoLimitIsNothing) {
  EXPECT_EQ(left(), std::nullopt);
  write("of-process", "0::/user\nnonsense");
  write("user/memory.max", "max");
  EXPECT_EQ(left(), std::nullopt);
}

TEST(MemoryWatch, SeesAPeakThatIsGone) {
  constexpr Index kBytes = Index{24} << 20;
  const MemoryWatch watch;
  {
    const std::vector<char> memory(kBytes, 1);
    for (int i = 0; i < 100 && watch.peak_above_start() <= kBytes * 9 / 10; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(watch.peak_above_start(), kBytes * 9 / 10);
}

TEST(PhaseTimer, AddsUpByPhase) {
  PhaseTimes times;
  for (int i = 0; i < 2; ++i) {
    const PhaseTimer timer(times, Phase::solve);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  { const PhaseTimer timer(times, Phase::read); }
  EXPECT_EQ(times.seconds.size(), 2u);
  EXPECT_GE(times.seconds[Phase::solve], 0.006);
  EXPECT_GE(times.seconds[Phase::read], 0.0);
}

TEST(MatrixView, SlicesShareTheMemory) {
  Matrix matrix(3, 4);
  for (Index r = 0; r < 3; ++r)
    for (Index c = 0; c < 4; ++c) matrix(r, c) = static_cast<float>(10 * r + c);
  const MatrixView<float> inner = matrix.view().slice_rows(1, 2).slice_columns(1, 2);
  EXPECT_EQ(inner.rows, 2);
  EXPECT_EQ(inner.columns, 2);
  EXPECT_THAT(inner.row(1), testing::ElementsAre(21.0f, 22.0f));
  inner(0, 1) = -1;
  EXPECT_EQ(matrix(1, 2), -1.0f);
  const MatrixView<const float> constants = inner;
  EXPECT_EQ(constants(0, 1), -1.0f);
  EXPECT_EQ(constants.stride, 4);
}

}  // namespace
}  // namespace aq
