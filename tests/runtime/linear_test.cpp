#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "aq/core/error.h"
#include "aq/runtime/operations.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;
using reference::to_rows;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(Embed, CopiesRows) {
  Matrix table(3, 2);
  table.values = {1, 2, 3, 4, 5, 6};
  Matrix out(4, 2);
  const std::vector<std::int32_t> tokens = {2, 0, 2, 1};
  embed(table.view(), tokens, out.view());
  EXPECT_EQ(out.values, (FloatArray{5, 6, 1, 2, 5, 6, 3, 4}));
}

TEST(Embed, RefusesTokensOutsideTheTable) {
  Matrix table(3, 2);
  Matrix out(1, 2);
  for (const std::int32_t token : {3, -1})
    EXPECT_THROW(embed(table.view(), std::vector{token}, out.view()), Error) << token;
}

TEST(Linear, ByHand) {
  Matrix x(2, 3);
  x.values = {1, 2, 3, -1, 0, 1};
  Matrix weight(2, 3);
  weight.values = {1, 0, 2, 0.5F, -1, 0};
  Matrix out(2, 2);
  linear(x.view(), weight.view(), out.view());
  EXPECT_EQ(out.values, (FloatArray{7, -1.5F, 1, -0.5F}));
}

TEST(Linear, GradientsByHand) {
  Matrix gradient(2, 2), weight(2, 3);
  gradient.values = {1, -1, 2, 0};
  weight.values = {1, 0, 2, 0.5F, -1, 0};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor out(2, 3);
    linear_gradient(Tensor::from(gradient).as(dtype), Tensor::from(weight).as(dtype), out.window());
    EXPECT_TRUE(std::ranges::equal(std::span(out.host().data, 6), FloatArray{0.5F, 1, 2, 2, 0, 4}));
  }
}

struct LinearShape {
  Index tokens, inputs, outputs;
};

TEST(Linear, AgreesWithDoublePrecision) {
  for (const auto& [tokens, inputs, outputs] : {LinearShape{1, 1, 1},
                                                {1, 64, 3},
                                                {3, 64, 1},
                                                {5, 7, 11},
                                                {64, 172, 64},
                                                {33, 1408, 16},
                                                {257, 128, 65},
                                                {2, 2048, 300}}) {
    const Matrix x = random_matrix(tokens, inputs, 1);
    const Matrix weight = random_matrix(outputs, inputs, 2);
    Matrix out(tokens, outputs);
    out.values.assign(out.values.size(), kNaN);  // what was there does not matter
    linear(x.view(), weight.view(), out.view());
    const auto expected = reference::linear(to_rows(x.view()), to_rows(weight.view()));
    EXPECT_LT(reference::difference(out.view(), expected), 2e-6)
        << tokens << " x " << inputs << " x " << outputs;
  }
}

TEST(Linear, WritesOnlyItsPartOfAWiderMatrix) {
  const Matrix x = random_matrix(9, 40, 1);
  const Matrix weight = random_matrix(30, 50, 2);
  Matrix out(9, 20);
  out.values.assign(out.values.size(), 7);
  const auto x_part = x.view().slice_columns(3, 32);
  const auto weight_part = weight.view().slice_columns(10, 32).slice_rows(5, 12);
  linear(x_part, weight_part, out.view().slice_columns(4, 12));
  const auto expected = reference::linear(to_rows(x_part), to_rows(weight_part));
  EXPECT_LT(reference::difference(out.view().slice_columns(4, 12), expected), 2e-6);
  for (Index t = 0; t < out.rows; ++t)
    for (const Index c : {0, 1, 2, 3, 16, 17, 18, 19}) EXPECT_EQ(out(t, c), 7);
}

TEST(Linear, OneTokenOfAStridedMatrix) {
  const Matrix x = random_matrix(4, 40, 1);
  const Matrix weight = random_matrix(6, 16, 2);
  Matrix out(4, 9);
  const auto x_part = x.view().slice_rows(2, 1).slice_columns(8, 16);
  linear(x_part, weight.view(), out.view().slice_rows(1, 1).slice_columns(2, 6));
  const auto expected = reference::linear(to_rows(x_part), to_rows(weight.view()));
  EXPECT_LT(reference::difference(out.view().slice_rows(1, 1).slice_columns(2, 6), expected), 2e-6);
}

TEST(Linear, NoTokens) {
  Matrix weight(3, 4);
  linear(MatrixView<const float>(nullptr, 0, 4), weight.view(), MatrixView<float>(nullptr, 0, 3));
}

TEST(Linear, RefusesShapesThatDoNotFit) {
  Matrix x(2, 3);
  Matrix weight(4, 3);
  Matrix narrow(2, 3);
  EXPECT_THROW(linear(x.view(), weight.view(), narrow.view()), Error);
}

TEST(Linear, OfBfloat16) {
  if (bf16_instructions().empty()) GTEST_SKIP() << "no instructions for bfloat16";
  for (const auto& [tokens, outputs, inputs] : std::vector<std::array<Index, 3>>{
           {1, 1, 1}, {3, 5, 7}, {64, 33, 96}, {1024, 96, 512}, {17, 256, 1000}}) {
    const Tensor x = Tensor::from(random_matrix(tokens, inputs, 1)).as(DType::bf16);
    const Tensor weight = Tensor::from(random_matrix(outputs, inputs, 2)).as(DType::bf16);
    const FloatArray bias = random_matrix(1, outputs, 3).values;
    const Tensor out(tokens, outputs), without(tokens, outputs);
    linear(x, weight, bias, out.window());
    linear(x, weight, {}, without.window());
    // The products of what was rounded, in double; sums differ by what float32 and the last
    // rounding to bfloat16 leave.
    const auto expected =
        reference::linear(to_rows(x.as(DType::f32).host()), to_rows(weight.as(DType::f32).host()));
    for (Index t = 0; t < tokens; ++t)
      for (Index c = 0; c < outputs; ++c) {
        const double exact = expected[t][c];
        const double allowed =
            std::abs(exact) / 256 + 1e-5 * std::sqrt(static_cast<double>(inputs));
        ASSERT_NEAR(without.host()(t, c), exact, allowed) << t << " " << c;
        ASSERT_EQ(out.host()(t, c), without.host()(t, c) + bias[c]);
      }
  }
}

TEST(AddBias, ToEveryRowOfAPart) {
  Matrix x = random_matrix(5, 50, 1);
  const Matrix start = x;
  const FloatArray bias = random_matrix(1, 37, 2).values;
  add_bias(bias, x.view().slice_columns(6, 37));
  for (Index t = 0; t < 5; ++t)
    for (Index c = 0; c < 50; ++c) {
      const bool part = c >= 6 && c < 43;
      EXPECT_EQ(x(t, c), part ? start(t, c) + bias[c - 6] : start(t, c));
    }
}

TEST(AddBias, RefusesAnotherWidth) {
  Matrix x(2, 3);
  EXPECT_THROW(add_bias(FloatArray(4), x.view()), Error);
  EXPECT_THROW(add_bias({}, x.view()), Error);
}

}  // namespace
}  // namespace aq::runtime
