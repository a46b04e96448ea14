#pragma once
/// Sums of lanes for tests of the tree: values of widely differing magnitude, so that another order
/// of additions gives other bits; and the tree written as the recursion that defines it.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "aq/comm/lanes.h"

namespace aq::test {

/// The sum of one lane of one matrix: the same on every rank, whoever computes it.
inline WeightedSum lane_sum(Index lane, Index matrix, Index values) {
  std::mt19937_64 random(static_cast<std::uint64_t>(lane * 1000003 + matrix));
  std::uniform_real_distribution<double> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-20, 20);
  WeightedSum sum;
  for (Index i = 0; i < values; ++i)
    sum.values.push_back(static_cast<float>(std::ldexp(mantissa(random), exponent(random))));
  sum.weight_sum = std::ldexp(mantissa(random), exponent(random));
  sum.tokens = 1 + static_cast<std::int64_t>(random() % 1000);
  return sum;
}

/// sum(node) = sum(left child) + sum(right child); lanes that are not present count nothing.
inline WeightedSum naive_tree(const std::vector<bool>& present, TreeNode node, Index matrix,
                              Index values) {
  if (node.level == 0) {
    const bool here = present[node.index];
    return here ? lane_sum(node.index, matrix, values) : WeightedSum{};
  }
  auto left = naive_tree(present, {node.level - 1, 2 * node.index}, matrix, values);
  auto right = naive_tree(present, {node.level - 1, 2 * node.index + 1}, matrix, values);
  if (left.tokens == 0) return right;
  if (right.tokens == 0) return left;
  WeightedSum sum;
  for (std::size_t i = 0; i < left.values.size(); ++i)
    sum.values.push_back(left.values[i] + right.values[i]);
  sum.weight_sum = left.weight_sum + right.weight_sum;
  sum.tokens = left.tokens + right.tokens;
  return sum;
}

inline void expect_same_bits(const WeightedSum& actual, const WeightedSum& expected) {
  EXPECT_EQ(actual.tokens, expected.tokens);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(actual.weight_sum),
            std::bit_cast<std::uint64_t>(expected.weight_sum));
  ASSERT_EQ(actual.values.size(), expected.values.size());
  for (std::size_t i = 0; i < actual.values.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual.values[i]),
              std::bit_cast<std::uint32_t>(expected.values[i]))
        << "value " << i << ": " << actual.values[i] << " and " << expected.values[i];
}

}  // namespace aq::test
