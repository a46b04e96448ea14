#include "verify/judge.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace aq {
namespace {

Matrix random_weights(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix weights(64, 128);
  for (float& value : weights.values) value = normal(random);
  return weights;
}

/// int4 in groups of 32 by absmax: a plain encoder of the test's own.
QuantizedMatrix rounded(const Matrix& weights) {
  const Scheme scheme{.group_size = 32, .scale_type = ScaleType::f32};
  QuantizedMatrix matrix = make_quantized(scheme, weights.rows, weights.columns);
  const Index words = words_per_row(4, weights.columns), groups = weights.columns / 32;
  for (Index r = 0; r < weights.rows; ++r) {
    std::vector<std::uint8_t> codes;
    for (Index c = 0; c < weights.columns; ++c) {
      const std::span<const float> group(&weights.values[r * weights.columns + c / 32 * 32], 32);
      const float scale = largest_magnitude(group) / 7;
      matrix.scales[r * groups + c / 32] = scale;
      codes.push_back(static_cast<std::uint8_t>(std::lround(weights(r, c) / scale) + 8));
    }
    pack_row(4, codes, std::span(matrix.codes).subspan(r * words, words));
  }
  return matrix;
}

double error_of(const QuantizedMatrix& matrix, const Matrix& weights) {
  Matrix values(weights.rows, weights.columns);
  dequantize(matrix, values.view());
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < values.values.size(); ++i) {
    error += std::pow(static_cast<double>(weights.values[i]) - values.values[i], 2);
    norm += std::pow(static_cast<double>(weights.values[i]), 2);
  }
  return error / norm;
}

class Judge : public testing::Test {
 protected:
  std::string kind(const QuantizedMatrix& matrix, Known known) const {
    return judge(form_of(matrix), weights_, known).kind;
  }
  const Matrix weights_ = random_weights(1);
  const QuantizedMatrix good_ = rounded(weights_);
  const Known logged_{.problem = {}, .changed = "", .logged = error_of(good_, weights_)};
  const Known changed_{.problem = {}, .changed = "codes", .logged = logged_.logged};
  const Known unlogged_{};
};

TEST_F(Judge, AGoodMatrix) {
  EXPECT_EQ(kind(good_, logged_), "");
  EXPECT_EQ(kind(good_, unlogged_), "");
  EXPECT_EQ(kind(good_, changed_), "checksum");
  Known other = logged_;
  other.logged = *logged_.logged * (1 + 1e-8);
  EXPECT_EQ(kind(good_, other), "error");
  EXPECT_EQ(kind(good_, {.problem = {"padding", "x"}, .changed = "codes"}), "padding");
}

TEST_F(Judge, ASingleBit) {
  for (const int bit : {0, 5, 31}) {
    QuantizedMatrix flipped = good_;
    flipped.codes[17] ^= 1U << bit;
    EXPECT_EQ(kind(flipped, logged_), "error") << bit;
    EXPECT_EQ(kind(flipped, changed_), "checksum") << bit;
  }
}

TEST_F(Judge, OtherWeights) {
  const QuantizedMatrix other = rounded(random_weights(2));
  for (const Known& known : {logged_, changed_, unlogged_})
    EXPECT_EQ(kind(other, known), "foreign");
}

TEST_F(Judge, Zeros) {
  QuantizedMatrix zero = good_;
  std::ranges::fill(zero.codes, 0x88888888U);
  for (const Known& known : {logged_, changed_, unlogged_}) EXPECT_EQ(kind(zero, known), "zero");
  const Matrix nothing(64, 128);
  const Known logged_zero{.problem = {}, .changed = "", .logged = 0};
  EXPECT_EQ(judge(form_of(zero), nothing, logged_zero).kind, "");
  EXPECT_EQ(judge(form_of(good_), nothing, logged_zero).kind, "foreign");
  EXPECT_EQ(judge(form_of(good_), nothing, unlogged_).kind, "foreign");
}

TEST_F(Judge, StaleScales) {
  QuantizedMatrix one = good_, all = good_;
  one.scales[9] *= 2;
  all.scales = rounded(random_weights(2)).scales;
  for (std::size_t i = 0; i < all.scales.size(); i += 2) all.scales[i] = -all.scales[i];
  for (const QuantizedMatrix* matrix : {&one, &all}) {
    EXPECT_EQ(kind(*matrix, logged_), "scale");
    EXPECT_EQ(kind(*matrix, changed_), "scale");
  }
}

TEST_F(Judge, RoundedOnceMore) {
  Matrix values(weights_.rows, weights_.columns);
  dequantize(good_, values.view());
  for (float& value : values.values) value = bf16_to_float(float_to_bf16(value));
  MatrixForm form = form_of(good_);
  form.group = form.columns;
  form.scale = [](Index, Index) { return 1.0F; };
  form.zero = [](Index, Index) { return 0.0F; };
  form.element = [&](Index r, Index c) { return values(r, c); };
  Known known = logged_;
  EXPECT_EQ(judge(form, weights_, known).kind, "error");
  known.rounding = 0x1p-8;
  EXPECT_EQ(judge(form, weights_, known).kind, "");
  for (Index c = 0; c < 128; ++c) values(3, c) = 0;
  EXPECT_EQ(judge(form, weights_, known).kind, "error");
}

}  // namespace
}  // namespace aq
