#include "aq/quant/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/quant/solver.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/hessian.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

void expect_near(const Matrix& actual, const Doubles& expected, double relative) {
  for (Index r = 0; r < actual.rows; ++r) {
    for (Index c = 0; c < actual.columns; ++c) {
      const double size = std::sqrt(expected(r, r) * expected(c, c));
      ASSERT_NEAR(actual(r, c), expected(r, c), relative * size + 1e-30) << r << ", " << c;
    }
  }
}

class HessianOfWidth : public testing::TestWithParam<Index> {};

TEST_P(HessianOfWidth, WeightedSubsetsAgreeWithDoubles) {
  const Index n = GetParam();
  const Matrix x = make_inputs(40, n, 1);
  const std::vector<std::int32_t> rows = {3, 0, 17, 17, 39, 8, 21};
  const std::vector<float> weights = {0.5F, 0.1F, 1, 0.25F, 0.7F, 0, 2};
  Matrix scaled(7, n);
  gather_scaled_reversed(x.view(), rows, weights, scaled.view());
  WeightedSum sum;
  accumulate_hessian(sum, scaled.view(), 4.55, false);
  EXPECT_EQ(sum.tokens, 7);
  EXPECT_EQ(sum.weight_sum, 4.55);
  EXPECT_EQ(std::ssize(sum.values), hessian_size(n));

  Matrix chosen(7, n);
  for (Index t = 0; t < 7; ++t) {
    for (Index c = 0; c < n; ++c) chosen(t, c) = x(rows[t], c);
  }
  expect_near(hessian_natural(sum, n), naive_hessian(chosen, weights), 1e-6);
}

TEST_P(HessianOfWidth, ThreadsAndStridesDoNotChangeBits) {
  const Index n = GetParam();
  const Matrix x = make_inputs(50, n, 2);
  WeightedSum one;
  accumulate_hessian(one, x.view(), 50, false);
  accumulate_hessian(one, x.view().slice_rows(10, 20), 20, false);
  EXPECT_EQ(one.tokens, 70);
  set_thread_count(2);
  Matrix wide(50, n + 3);
  for (Index t = 0; t < 50; ++t) {
    for (Index c = 0; c < n; ++c) wide(t, c) = x(t, c);
  }
  WeightedSum two;
  accumulate_hessian(two, wide.view().slice_columns(0, n), 50, true);
  accumulate_hessian(two, x.view().slice_rows(10, 20), 20, true);
  set_thread_count(1);
  EXPECT_EQ(one, two);
}

TEST_P(HessianOfWidth, UpperTriangleIsTheNaturalOrderAndGoesBack) {
  const Index n = GetParam();
  const Matrix x = make_inputs(10, n, 3);
  WeightedSum sum;
  accumulate_hessian(sum, x.view(), 10, false);
  const Matrix natural = hessian_natural(sum, n);
  const std::vector<float> upper = hessian_upper(sum, n);
  ASSERT_EQ(std::ssize(upper), n * (n + 1) / 2);
  std::size_t at = 0;
  for (Index r = 0; r < n; ++r)
    for (Index c = r; c < n; ++c) ASSERT_EQ(upper[at++], natural(r, c)) << r << ", " << c;
  const WeightedSum back{hessian_values(upper, n), sum.weight_sum, sum.tokens};
  EXPECT_EQ(hessian_natural(back, n).values, natural.values);
  EXPECT_EQ(hessian_upper(back, n), upper);
  const Factor one = factorize(sum, n, {}), two = factorize(back, n, {});
  EXPECT_EQ(cpu_factor(one).u, cpu_factor(two).u);
  EXPECT_EQ(cpu_factor(one).h, cpu_factor(two).h);
}

INSTANTIATE_TEST_SUITE_P(Columns, HessianOfWidth, testing::Values(1, 100, 256, 257, 300, 700));

TEST(Hessian, SizeIsThePanelTriangle) {
  EXPECT_EQ(hessian_size(0), 0);
  EXPECT_EQ(hessian_size(100), 100 * 100);
  EXPECT_EQ(hessian_size(256), 256 * 256);
  EXPECT_EQ(hessian_size(300), 300 * 256 + 44 * 44);
  EXPECT_EQ(hessian_size(700), 700 * 256 + 444 * 256 + 188 * 188);
}

TEST(Hessian, LayoutIsReversedPanels) {
  Matrix x(1, 300);
  std::iota(x.values.begin(), x.values.end(), 1.0F);  // channel c holds c + 1
  Matrix scaled(1, 300);
  gather_scaled_reversed(x.view(), {}, {}, scaled.view());
  EXPECT_EQ(scaled(0, 0), 300);
  WeightedSum sum;
  accumulate_hessian(sum, scaled.view(), 1, false);
  EXPECT_EQ(sum.values[0], 300 * 300);     // (0, 0): channels 299, 299
  EXPECT_EQ(sum.values[65536], 300 * 44);  // row 256 (after 256 rows of 256): channel 43
  EXPECT_EQ(sum.values[65537], 299 * 44);
  EXPECT_EQ(sum.values[76800], 44 * 44);  // second panel, after 300 rows
  EXPECT_EQ(sum.values[76844], 43 * 44);
}

TEST(Hessian, NoTokensChangeNothing) {
  WeightedSum sum;
  Matrix none(0, 20);
  accumulate_hessian(sum, none.view(), 0, false);
  EXPECT_TRUE(sum.empty());
  EXPECT_TRUE(sum.values.empty());
  EXPECT_EQ(hessian_natural(sum, 20)(3, 4), 0);
  EXPECT_TRUE(hessian_upper(sum, 20).empty());
  EXPECT_TRUE(hessian_values({}, 20).empty());
}

}  // namespace
}  // namespace aq::test
