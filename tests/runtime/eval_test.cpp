#include <gtest/gtest.h>

#include <cmath>

#include "aq/core/error.h"
#include "aq/eval/estimate.h"
#include "eval/windows.h"

namespace aq {
namespace {

TEST(RatioEstimate, OfEqualCountsIsTheMeanOfMeans) {
  // Means 1, 2, 3, 6: mean 3, variance 14 / 3.
  const Estimate estimate =
      ratio_estimate(std::vector<double>{10, 20, 30, 60}, std::vector<Index>{10, 10, 10, 10});
  EXPECT_DOUBLE_EQ(estimate.mean, 3);
  EXPECT_NEAR(*estimate.standard_error, std::sqrt(14.0 / 3.0 / 4.0), 1e-14);
}

TEST(RatioEstimate, OfUnequalCountsByHand) {
  // Mean 12 / 6 = 2; residuals 4 - 2, 4 - 6, 4 - 4.
  const Estimate estimate =
      ratio_estimate(std::vector<double>{4, 4, 4}, std::vector<Index>{1, 3, 2});
  EXPECT_DOUBLE_EQ(estimate.mean, 2);
  EXPECT_NEAR(*estimate.standard_error, std::sqrt(8.0 * 3 / 2) / 6, 1e-14);
}

TEST(RatioEstimate, OneWindowTellsNoError) {
  const Estimate estimate = ratio_estimate(std::vector<double>{6}, std::vector<Index>{4});
  EXPECT_DOUBLE_EQ(estimate.mean, 1.5);
  EXPECT_FALSE(estimate.standard_error);
}

TEST(RatioEstimate, RefusesWhatIsNoSample) {
  EXPECT_THROW(ratio_estimate(std::vector<double>{1}, std::vector<Index>{}), Error);
  EXPECT_THROW(ratio_estimate(std::vector<double>{0}, std::vector<Index>{0}), Error);
}

TEST(Windows, CutRowsAndKeepTails) {
  const Windows windows = cut_windows({5, 1, 4, 3}, 2, 0);
  EXPECT_EQ(windows.row, (std::vector<Index>{0, 0, 2, 2, 3}));
  EXPECT_EQ(windows.begin, (std::vector<Index>{0, 2, 0, 2, 0}));
  EXPECT_EQ(windows.length, (std::vector<Index>{2, 2, 2, 2, 2}));
  EXPECT_EQ(cut_windows({5, 4}, 3, 0).predictions(), (std::vector<Index>{2, 1, 2}));
  EXPECT_EQ(cut_windows({5, 4}, 3, 2).count(), 2);
}

TEST(Windows, HoldTheirTokens) {
  const Sequences rows{{1, 2, 3, 4, 5, 6, 7}, {3, 4}};
  const Sequences taken = tokens_of(cut_windows(rows.lengths, 2, 0), rows, 1, 2);
  EXPECT_EQ(taken.tokens, (std::vector<std::int32_t>{4, 5, 6, 7}));
  EXPECT_EQ(taken.lengths, (std::vector<Index>{2, 2}));
}

}  // namespace
}  // namespace aq
