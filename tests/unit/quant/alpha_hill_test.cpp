#include "aq/quant/alpha_hill.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/quant/reference.h"

namespace aq::test {
namespace {

/// Singular values d_i in an orthogonal frame: rows of a 2-D rotation of diagonal pairs.
Matrix with_singular_values(const std::vector<double>& values, Index columns, bool transposed) {
  const auto rows = std::ssize(values);
  Matrix matrix = transposed ? Matrix(columns, rows) : Matrix(rows, columns);
  const auto set = [&](Index r, Index c, double value) {
    (transposed ? matrix.view()(c, r) : matrix.view()(r, c)) = static_cast<float>(value);
  };
  for (Index i = 0; i + 1 < rows; i += 2) {
    const double cosine = std::cos(static_cast<double>(i)), sine = std::sin(static_cast<double>(i));
    set(i, i, cosine * values[i]);
    set(i, i + 1, -sine * values[i]);
    set(i + 1, i, sine * values[i + 1]);
    set(i + 1, i + 1, cosine * values[i + 1]);
  }
  return matrix;
}

TEST(AlphaHill, OfAKnownSpectrum) {
  std::vector<double> values(200);
  for (Index i = 0; i < 200; ++i) values[i] = std::pow(static_cast<double>(i + 1), -0.7);
  double sum = 0;  // of the 20 largest eigenvalues, squares of these, beside the next
  for (Index i = 0; i < 20; ++i) sum += 2 * std::log(values[i] / values[20]);
  for (const bool transposed : {false, true})
    EXPECT_NEAR(alpha_hill(with_singular_values(values, 230, transposed).view()), 1 + 20 / sum,
                1e-4);
}

TEST(AlphaHill, TakesTenOfFewAndAllButOneOfVeryFew) {
  std::vector<double> values(40);
  for (Index i = 0; i < 40; ++i) values[i] = std::exp(-0.1 * static_cast<double>(i));
  double sum = 0;
  for (Index i = 0; i < 10; ++i) sum += 0.2 * static_cast<double>(10 - i);
  EXPECT_NEAR(alpha_hill(with_singular_values(values, 40, false).view()), 1 + 10 / sum, 1e-4);
  EXPECT_NEAR(alpha_hill(with_singular_values({2, 1}, 2, false).view()), 1 + 1 / std::log(4), 1e-4);
}

TEST(AlphaHill, OfWhatHasNoTail) {
  EXPECT_EQ(alpha_hill(Matrix(1, 8).view()), 0);
  EXPECT_EQ(alpha_hill(Matrix(8, 8).view()), 0);
  EXPECT_EQ(alpha_hill(with_singular_values({1, 0, 0, 0}, 4, false).view()), 0);
}

}  // namespace
}  // namespace aq::test
