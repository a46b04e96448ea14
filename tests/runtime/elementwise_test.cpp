#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/reference.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;
using reference::to_rows;

TEST(RmsNorm, ByHand) {
  Matrix x(1, 2);
  x.values = {3, 4};
  const FloatArray weight = {2, -1};
  Matrix out(1, 2);
  rms_norm(x.view(), weight, 0, out.view());  // root of the mean square: sqrt(12.5)
  EXPECT_FLOAT_EQ(out(0, 0), 1.6970563F);
  EXPECT_FLOAT_EQ(out(0, 1), -1.1313709F);
  rms_norm(x.view(), weight, 12.5, out.view());
  EXPECT_FLOAT_EQ(out(0, 0), 1.2F);
  EXPECT_FLOAT_EQ(out(0, 1), -0.8F);
}

TEST(RmsNorm, AgreesWithDoublePrecision) {
  for (const Index columns : {1, 2, 15, 16, 17, 31, 64, 172, 2048, 4097})
    for (const float spread : {1e-4F, 1.0F, 1e4F}) {
      const Matrix x = random_matrix(3, columns, 1, spread);
      const Matrix weight = random_matrix(1, columns, 2);
      Matrix out(3, columns);
      rms_norm(x.view(), weight.values, 1e-5, out.view());
      const auto expected = reference::rms_norm(to_rows(x.view()), weight.values, 1e-5);
      EXPECT_LT(reference::difference(out.view(), expected), 3e-7) << columns << ", " << spread;
    }
}

TEST(RmsNorm, InPlaceAndStrided) {
  const Matrix x = random_matrix(5, 100, 1);
  const Matrix weight = random_matrix(1, 60, 2);
  const auto expected =
      reference::rms_norm(to_rows(x.view().slice_columns(20, 60)), weight.values, 1e-6);
  Matrix changed = x;
  const auto part = changed.view().slice_columns(20, 60);
  rms_norm(part, weight.values, 1e-6, part);
  EXPECT_LT(reference::difference(part, expected), 3e-7);
  EXPECT_EQ(changed(4, 19), x(4, 19));
  EXPECT_EQ(changed(4, 80), x(4, 80));
}

TEST(GatedActivation, ByHand) {
  Matrix gate(1, 4);
  gate.values = {0, 1, -1, 20};
  Matrix up(1, 4);
  up.values = {5, 2, 1, 0.5F};
  gated_activation({}, gate.view(), up.view());
  EXPECT_EQ(gate(0, 0), 0);
  EXPECT_FLOAT_EQ(gate(0, 1), 1.4621172F);
  EXPECT_FLOAT_EQ(gate(0, 2), -0.26894142F);
  EXPECT_FLOAT_EQ(gate(0, 3), 10);
}

TEST(SiluMultiply, AgreesWithDoublePrecisionEverywhere) {
  FloatArray x;
  for (float value = -87; value < 100; value += 0.0137F) x.push_back(value);
  for (float value = 1e-30F; value < 1; value *= 1.7F) x.insert(x.end(), {value, -value});
  FloatArray gate = x;
  const FloatArray up(x.size(), 1);
  silu_multiply(gate.data(), up.data(), std::ssize(x));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = x[i] / (1 + std::exp(-static_cast<double>(x[i])));
    EXPECT_NEAR(gate[i] / expected, 1, 5e-7) << x[i];
  }
}

TEST(SiluMultiply, ExtremesAndNaN) {
  FloatArray gate = {-1e30F, -200, 200, 1e30F, std::numeric_limits<float>::quiet_NaN()};
  const FloatArray up(gate.size(), 1);
  silu_multiply(gate.data(), up.data(), std::ssize(gate));
  EXPECT_NEAR(gate[0], 0, 1e-7);
  EXPECT_NEAR(gate[1], 0, 1e-30);
  EXPECT_EQ(gate[2], 200);
  EXPECT_EQ(gate[3], 1e30F);
  EXPECT_TRUE(std::isnan(gate[4]));
}

TEST(GatedActivation, Strided) {
  Matrix both = random_matrix(3, 10, 1);
  const Matrix start = both;
  gated_activation({}, both.view().slice_columns(0, 5), both.view().slice_columns(5, 5));
  for (Index t = 0; t < 3; ++t)
    for (Index c = 0; c < 5; ++c) {
      const double x = start(t, c);
      EXPECT_NEAR(both(t, c), x / (1 + std::exp(-x)) * start(t, c + 5), 1e-6);
      EXPECT_EQ(both(t, c + 5), start(t, c + 5));
    }
}

/// With limit 7 and alpha 1.702, as in gpt-oss: sigmoid(1.702) = 0.8457958, sigmoid(11.914) is
/// 1 - 6.7e-6.
TEST(ClampedActivation, ByHand) {
  Matrix gate(1, 6);
  gate.values = {0, 1, 9, 1, 1, -1};
  Matrix up(1, 6);
  up.values = {5, 2, 0, 9, -9, -1};
  gated_activation({.clamped = true}, gate.view(), up.view());
  EXPECT_EQ(gate(0, 0), 0);
  EXPECT_FLOAT_EQ(gate(0, 1), 0.8457958F * 3);
  EXPECT_FLOAT_EQ(gate(0, 2), 6.9999531F);
  EXPECT_FLOAT_EQ(gate(0, 3), 0.8457958F * 8);
  EXPECT_FLOAT_EQ(gate(0, 4), 0.8457958F * -6);
  EXPECT_EQ(gate(0, 5), 0);  // up + 1 = 0
}

TEST(ClampedActivation, AgreesWithDoublePrecisionInsideAndBeyondTheLimits) {
  FloatArray gates, ups;
  for (float g = -45; g < 12; g += 0.0371F)
    for (const float u :
         {-1e9F, -7.01F, -7.0F, -6.9F, -0.5F, 0.0F, 3.3F, 6.99F, 7.0F, 8.0F, 1e9F}) {
      gates.push_back(g);
      ups.push_back(u);
    }
  for (const GatedActivation& activation :
       {GatedActivation{true}, GatedActivation{true, 2.5, 1.0}, GatedActivation{true, 20, 0.5}}) {
    Matrix gate(1, std::ssize(gates)), up(1, std::ssize(ups));
    gate.values = gates;
    up.values = ups;
    gated_activation(activation, gate.view(), up.view());
    for (std::size_t i = 0; i < gates.size(); ++i) {
      const double g = std::min(double{gates[i]}, activation.limit);
      const double u = std::clamp(double{ups[i]}, -activation.limit, activation.limit);
      const double expected = g / (1 + std::exp(-activation.alpha * g)) * (u + 1);
      // alpha * g is rounded to fp32 before the exponential
      EXPECT_NEAR(gate.values[i] / expected, 1, 5e-7 + 2e-7 * std::abs(activation.alpha * g))
          << gates[i] << ", " << ups[i];
    }
  }
}

TEST(ClampedActivation, ExtremesAndNaN) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  Matrix gate(1, 6);
  gate.values = {-1e30F, -200, 1e30F, 1, kNaN, 1};
  Matrix up(1, 6);
  up.values = {1, 1, 1e30F, -1e30F, 1, kNaN};
  gated_activation({.clamped = true}, gate.view(), up.view());
  EXPECT_NEAR(gate(0, 0), 0, 1e-7);
  EXPECT_NEAR(gate(0, 1), 0, 1e-30);
  EXPECT_FLOAT_EQ(gate(0, 2), 6.9999531F * 8);
  EXPECT_FLOAT_EQ(gate(0, 3), 0.8457958F * -6);
  EXPECT_TRUE(std::isnan(gate(0, 4)));
  EXPECT_TRUE(std::isnan(gate(0, 5)));
}

TEST(GatedActivation, RefusesShapesThatDoNotFit) {
  Matrix gate(2, 3), up(2, 4);
  EXPECT_THROW(gated_activation({}, gate.view(), up.view()), Error);
}

TEST(Sigmoid, RoundedOnce) {
  Matrix x = random_matrix(40, 30, 1, 10);
  const Matrix start = x;
  apply_sigmoid(x.view().slice_columns(3, 20));
  for (Index t = 0; t < x.rows; ++t)
    for (Index c = 0; c < x.columns; ++c) {
      const bool part = c >= 3 && c < 23;
      const double exact = 1 / (1 + std::exp(-double{start(t, c)}));
      EXPECT_EQ(x(t, c), part ? static_cast<float>(exact) : start(t, c));
    }
}

TEST(Sigmoid, Extremes) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Matrix x(1, 8);
  x.values = {0, 40, -40, 1000, -1000, kInfinity, -kInfinity, std::nanf("")};
  apply_sigmoid(x.view());
  EXPECT_EQ(x(0, 0), 0.5F);
  EXPECT_EQ(x(0, 1), 1);
  EXPECT_FLOAT_EQ(x(0, 2), 4.2483543e-18F);
  for (const Index c : {3, 5}) EXPECT_EQ(x(0, c), 1);
  for (const Index c : {4, 6}) EXPECT_EQ(x(0, c), 0);
  EXPECT_TRUE(std::isnan(x(0, 7)));
}

/// Every 4,001st float of [-87.3, 0].
TEST(VectorLoops, ExponentialIsAccurate) {
  double worst = 0;
  FloatArray x;
  for (std::uint32_t bits = 0x80000000U; bits < std::bit_cast<std::uint32_t>(-87.3F); bits += 4001)
    x.push_back(std::bit_cast<float>(bits));
  FloatArray result = x;
  exponentiate(result.data(), 1, 0, std::ssize(result));
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, std::abs(result[i] / std::exp(static_cast<double>(x[i])) - 1));
  EXPECT_GT(x.size(), 100000U);
  EXPECT_LT(worst, 2e-7);
}

TEST(VectorLoops, ExponentialLimits) {
  FloatArray x = {0, -87.4F, -1e30F, -std::numeric_limits<float>::infinity(),
                  std::numeric_limits<float>::quiet_NaN()};
  exponentiate(x.data(), 1, 0, 4);
  EXPECT_EQ((FloatArray(x.begin(), x.begin() + 4)), (FloatArray{1, 0, 0, 0}));
  EXPECT_TRUE(std::isnan(exponentiate(x.data(), 1, 0, 5)));
}

TEST(VectorLoops, TheRestOfARowIsComputedLikeTheVectors) {
  const Matrix x = random_matrix(1, 100, 3, 5);
  for (Index count = 1; count <= 100; ++count) {
    FloatArray together(x.values.begin(), x.values.begin() + count);
    const float largest = largest_of(together.data(), count);
    EXPECT_EQ(largest, *std::max_element(together.begin(), together.end()));
    exponentiate(together.data(), 0.3F, largest, count);
    FloatArray gate(x.values.begin(), x.values.begin() + count);
    const FloatArray up(gate.size(), 2);
    silu_multiply(gate.data(), up.data(), count);
    FloatArray clamped(x.values.begin(), x.values.begin() + count);
    clamped_multiply(clamped.data(), up.data(), 4, 1.5F, count);
    for (Index i = 0; i < count; ++i) {
      float one = x(0, i);
      exponentiate(&one, 0.3F, largest, 1);
      EXPECT_EQ(together[i], one) << i << " of " << count;
      one = x(0, i);
      silu_multiply(&one, up.data(), 1);
      EXPECT_EQ(gate[i], one) << i << " of " << count;
      one = x(0, i);
      clamped_multiply(&one, up.data(), 4, 1.5F, 1);
      EXPECT_EQ(clamped[i], one) << i << " of " << count;
    }
  }
}

TEST(VectorLoops, Clamp) {
  FloatArray x = {-3, -2, -1, 0, 1, 2, 3};
  clamp(x.data(), 2, std::ssize(x));
  EXPECT_EQ(x, (FloatArray{-2, -2, -1, 0, 1, 2, 2}));
}

}  // namespace
}  // namespace aq::runtime
