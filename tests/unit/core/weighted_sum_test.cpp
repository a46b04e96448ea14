#include "aq/core/weighted_sum.h"

#include <gtest/gtest.h>

#include <cmath>

#include "aq/core/error.h"

namespace aq {
namespace {

TEST(WeightedSum, AddsValuesWeightsAndTokens) {
  WeightedSum sum{{1.0f, -2.0f, 0.5f}, 0.25, 3};
  sum.add({{0.5f, 2.0f, 0.25f}, 1.5, 4});
  EXPECT_EQ(sum, (WeightedSum{{1.5f, 0.0f, 0.75f}, 1.75, 7}));
}

TEST(WeightedSum, AddsInSinglePrecision) {
  WeightedSum sum{{16777216.0f}, 1, 1};  // 2^24: the next float is two away
  sum.add({{1.0f}, 1, 1});
  EXPECT_EQ(sum.values[0], 16777216.0f);
  sum.add({{3.0f}, 1, 1});
  EXPECT_EQ(sum.values[0], 16777220.0f) << "a tie goes to the even neighbour";
}

TEST(WeightedSum, AnEmptySumChangesNoBit) {
  const WeightedSum original{{-0.0f, 3.0f}, 2, 5};
  WeightedSum sum = original;
  sum.add({});
  sum.add({{1.0f, 1.0f}, 9, 0});  // no token: does not count
  EXPECT_EQ(sum, original);
  EXPECT_TRUE(std::signbit(sum.values[0]));
  WeightedSum empty;
  EXPECT_TRUE(empty.empty());
  empty.add(original);
  EXPECT_EQ(empty, original);
  EXPECT_TRUE(std::signbit(empty.values[0]));
  WeightedSum none;
  none.add({});
  EXPECT_TRUE(none.empty());
  EXPECT_TRUE(none.values.empty());
}

TEST(WeightedSum, RejectsAnotherLength) {
  WeightedSum sum{{1.0f, 2.0f}, 1, 1};
  EXPECT_THROW(sum.add({{1.0f}, 1, 1}), Error);
}

}  // namespace
}  // namespace aq
