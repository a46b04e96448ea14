#include "quant/cpu/factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aq/core/parallel.h"
#include "aq/quant/hessian.h"
#include "aq/quant/solver.h"
#include "quant/hessian_panels.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

/// The place of natural element (i, j), i <= j, in a sum.
float& element(WeightedSum& sum, Index n, Index i, Index j) {
  const HessianPanel panel = hessian_panel(n, (n - 1 - j) / kHessianPanel);
  const Index at = panel.row_offset(n - 1 - i) + (n - 1 - j) - panel.first;
  return sum.values[at];
}

/// The identity times `tokens`, as a sum.
WeightedSum identity_sum(Index n) {
  WeightedSum sum{FloatArray(hessian_size(n), 0.0F), 10, 10};
  for (Index i = 0; i < n; ++i) element(sum, n, i, i) = 10;
  return sum;
}

class FactorOfWidth : public testing::TestWithParam<Index> {};

TEST_P(FactorOfWidth, AgreesWithDoubles) {
  const Index n = GetParam();
  const Matrix x = make_inputs(2 * n, n, 3);
  const Factor factor = factorize(sum_of(x), n, GptqSettings{});
  EXPECT_EQ(factor.fallback, Fallback::none);
  EXPECT_EQ(factor.damping, 0.51);  // two tokens a column
  EXPECT_EQ(factor.dead_channels, 0);
  const Doubles damped = naive_damped(naive_hessian(x, {}), static_cast<double>(2 * n), 0.51);
  const Doubles expected = naive_upper(damped);
  const Matrix upper = factor_upper(factor);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) {
      ASSERT_NEAR(upper(i, j), expected(i, j), 3e-5 * std::sqrt(damped(i, i))) << i << ", " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Columns, FactorOfWidth, testing::Values(1, 7, 8, 100, 256, 300));

TEST(Factor, ThreadsDoNotChangeBits) {
  const WeightedSum sum = sum_of(make_inputs(300, 700, 4));
  const Factor one = factorize(sum, 700, GptqSettings{});
  set_thread_count(2);
  const Factor two = factorize(sum, 700, GptqSettings{});
  set_thread_count(1);
  EXPECT_EQ(cpu_factor(one).u, cpu_factor(two).u);
}

TEST(Factor, DeadChannelsGetTheMean) {
  Matrix x = make_inputs(200, 30, 5);
  for (Index t = 0; t < x.rows; ++t) x(t, 0) = x(t, 17) = 0;
  const Factor factor = factorize(sum_of(x), 30, GptqSettings{});
  EXPECT_EQ(factor.fallback, Fallback::none);
  EXPECT_EQ(factor.dead_channels, 2);
  const Matrix upper = factor_upper(factor);
  for (Index j = 0; j < 30; ++j) {
    if (j == 17) continue;
    EXPECT_EQ(upper(std::min<Index>(j, 17), std::max<Index>(j, 17)), 0);
  }
  EXPECT_NEAR(upper(17, 17), std::sqrt(1.16 * factor.mean_diagonal), 1e-5 * upper(17, 17));
  EXPECT_NEAR(upper(0, 0), upper(17, 17), 1e-6 * upper(17, 17));
}

TEST(Factor, PoorSumsAreNotUsable) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity()};
  EXPECT_FALSE(factorize(WeightedSum{}, 20, GptqSettings{}).usable());
  WeightedSum zeros{FloatArray(hessian_size(20), 0.0F), 5, 5};
  EXPECT_FALSE(factorize(zeros, 20, GptqSettings{}).usable());
  for (const float value : bad) {
    WeightedSum diagonal = identity_sum(20);
    element(diagonal, 20, 3, 3) = value;
    EXPECT_FALSE(factorize(diagonal, 20, GptqSettings{}).usable());
    WeightedSum beside = identity_sum(20);
    element(beside, 20, 3, 9) = value;
    EXPECT_FALSE(factorize(beside, 20, GptqSettings{}).usable());
    WeightedSum weight = identity_sum(20);
    weight.weight_sum = value;
    EXPECT_FALSE(factorize(weight, 20, GptqSettings{}).usable());
  }
  WeightedSum weightless = identity_sum(20);
  weightless.weight_sum = 0;
  EXPECT_FALSE(factorize(weightless, 20, GptqSettings{}).usable());
}

TEST(Factor, FewTokensAreDampedMore) {
  const auto damping = [](Index tokens, const GptqSettings& settings) {
    return factorize(sum_of(make_inputs(tokens, 40, 3)), 40, settings).damping;
  };
  EXPECT_NEAR(damping(10, {}), 0.01 + 4, 1e-12);
  EXPECT_NEAR(damping(4000, {}), 0.01 + 0.01, 1e-12);
  EXPECT_NEAR(damping(80, {.damping = 0.02, .few_tokens_damping = 0.25}), 0.02 + 0.125, 1e-12);
  EXPECT_EQ(damping(10, {.few_tokens_damping = 0}), 0.01);
}

TEST(Factor, LadderOfDamping) {
  // Eigenvalues 1 ± a: positive definite once damping > a - 1.
  const auto with = [](float a) {
    WeightedSum sum = identity_sum(20);
    element(sum, 20, 4, 5) = 10 * a;
    return factorize(sum, 20, {.few_tokens_damping = 0});
  };
  EXPECT_EQ(with(0.9F).fallback, Fallback::none);
  EXPECT_EQ(with(1.05F).fallback, Fallback::more_damping);
  EXPECT_NEAR(with(1.05F).damping, 0.1, 1e-12);
  EXPECT_NEAR(with(1.5F).damping, 1, 1e-12);
  EXPECT_NEAR(with(5).damping, 10, 1e-12);
  EXPECT_EQ(with(12).fallback, Fallback::rtn);
  EXPECT_EQ(with(12).data, nullptr);
}

TEST(Factor, Float64WhereFloatFails) {
  // [1, b; b, b² + 2⁻³⁰]-like: exact in the sum, singular in float arithmetic.
  const Index n = 2;
  WeightedSum sum{FloatArray(4, 0.0F), 1, 1};
  element(sum, n, 0, 0) = 1;
  element(sum, n, 1, 1) = 1 + 0x1p-22F;
  element(sum, n, 0, 1) = 1 + 0x1p-23F;
  // determinant 1 + 2⁻²² - (1 + 2⁻²³)² = -2⁻⁴⁶; a damping of 2⁻³⁰ is lost in float, not in double
  const Factor factor =
      factorize(sum, n, GptqSettings{.damping = 0x1p-40, .few_tokens_damping = 0});
  EXPECT_EQ(factor.fallback, Fallback::float64);
  EXPECT_EQ(factor.damping, 0x1p-40);
}

TEST(Factor, SumOfAnotherSizeIsRefused) {
  WeightedSum sum = identity_sum(20);
  EXPECT_ANY_THROW(factorize(sum, 21, GptqSettings{}));
}

}  // namespace
}  // namespace aq::test
