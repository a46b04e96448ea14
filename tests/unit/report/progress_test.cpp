#include "aq/report/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace aq {
namespace {

/// Standard error is a file here, as in a batch log: lines, no bar.
TEST(Progress, PrintsPlainLinesIntoALog) {
  testing::internal::CaptureStderr();
  Progress progress(4, false);
  progress.at(1, "layer 1/4");
  progress.step("layer 1/4 done", false);
  progress.finish();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "layer 1/4 done\n");
}

TEST(Progress, PrintsNothingWhenQuiet) {
  testing::internal::CaptureStderr();
  Progress progress(4, true);
  progress.at(1, "layer 1/4");
  progress.step("layer 1/4 done", false);
  progress.finish();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, RemainingFollowsTheStepsThatWereWorked) {
  Progress progress(10, true);
  EXPECT_EQ(progress.remaining(0), 0);
  progress.skip(6);  // resumed: they took no time
  EXPECT_EQ(progress.remaining(6), 0) << "nothing is known yet";
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = progress.elapsed();
  const double remaining = progress.remaining(8);  // two steps in about 20 ms, two to go
  EXPECT_GE(remaining, 0.019);
  EXPECT_LE(remaining, progress.elapsed());
  EXPECT_LE(before, progress.elapsed());
  EXPECT_EQ(progress.remaining(10), 0);
}

}  // namespace
}  // namespace aq
