#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;

struct Choice {
  std::vector<std::int32_t> index;
  Matrix weight;
};

Choice choose(const RouterSpec& spec, const Matrix& logits) {
  Choice choice = {
      std::vector<std::int32_t>(static_cast<std::size_t>(logits.rows * spec.top_k), -1),
      Matrix(logits.rows, spec.top_k)};
  route(spec, logits.view(), {choice.index.data(), logits.rows, spec.top_k}, choice.weight.view());
  return choice;
}

Matrix one_row(const std::vector<float>& values) {
  Matrix row(1, std::ssize(values));
  row.values = values;
  return row;
}

TEST(Route, ByHand) {
  const Matrix logits = one_row({std::log(3.0F), 0, std::log(4.0F), std::log(2.0F)});
  const Choice plain = choose({.experts = 4, .top_k = 2, .renormalize = false}, logits);
  EXPECT_EQ(plain.index, (std::vector<std::int32_t>{2, 0}));
  EXPECT_FLOAT_EQ(plain.weight(0, 0), 0.4F);
  EXPECT_FLOAT_EQ(plain.weight(0, 1), 0.3F);
  const Choice whole = choose({.experts = 4, .top_k = 2, .renormalize = true}, logits);
  EXPECT_EQ(whole.index, plain.index);
  EXPECT_FLOAT_EQ(whole.weight(0, 0), 4.0F / 7);
  EXPECT_FLOAT_EQ(whole.weight(0, 1), 3.0F / 7);
}

TEST(Route, TiesGoToTheLowerIndex) {
  const Matrix logits = one_row({1, 2, 1, 2, 0, 2, 1});
  EXPECT_EQ(choose({.experts = 7, .top_k = 2}, logits).index, (std::vector<std::int32_t>{1, 3}));
  EXPECT_EQ(choose({.experts = 7, .top_k = 5}, logits).index,
            (std::vector<std::int32_t>{1, 3, 5, 0, 2}));
  EXPECT_EQ(choose({.experts = 7, .top_k = 7}, logits).index,
            (std::vector<std::int32_t>{1, 3, 5, 0, 2, 6, 4}));
  const Choice equal = choose({.experts = 4, .top_k = 3}, one_row({5, 5, 5, 5}));
  EXPECT_EQ(equal.index, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(equal.weight.values, (std::vector<float>{0.25F, 0.25F, 0.25F}));
}

TEST(Route, OneExpert) {
  const Choice choice = choose({.experts = 1, .top_k = 1, .renormalize = true}, one_row({-3}));
  EXPECT_EQ(choice.index, std::vector<std::int32_t>{0});
  EXPECT_EQ(choice.weight(0, 0), 1);
}

TEST(Route, ExtremeLogits) {
  const Choice choice = choose({.experts = 4, .top_k = 4}, one_row({-1e30F, 1e30F, 3e38F, -3e38F}));
  EXPECT_EQ(choice.index, (std::vector<std::int32_t>{2, 0, 1, 3}));
  EXPECT_EQ(choice.weight.values, (std::vector<float>{1, 0, 0, 0}));
}

/// Stable sort of the softmax in double precision.
void expect_reference(const RouterSpec& spec, const Matrix& logits) {
  const Choice got = choose(spec, logits);
  for (Index t = 0; t < logits.rows; ++t) {
    std::vector<double> score;
    for (const float logit : logits.view().row(t)) score.push_back(std::exp(double{logit}));
    const double sum = std::accumulate(score.begin(), score.end(), 0.0);
    std::vector<std::int32_t> order(score.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](std::int32_t a, std::int32_t b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    double chosen = 0;
    for (Index i = 0; i < spec.top_k; ++i)
      chosen += score[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    for (Index i = 0; i < spec.top_k; ++i) {
      const std::int32_t expert = order[static_cast<std::size_t>(i)];
      EXPECT_EQ(got.index[static_cast<std::size_t>(t * spec.top_k + i)], expert);
      const double expected =
          score[static_cast<std::size_t>(expert)] / (spec.renormalize ? chosen : sum);
      EXPECT_NEAR(got.weight(t, i) / expected, 1, 3e-7);
    }
  }
}

TEST(Route, AgreesWithDoublePrecision) {
  for (const Index experts : {2, 8, 60, 64, 128})
    for (const Index top_k : {Index{1}, Index{2}, std::min<Index>(8, experts), experts})
      for (const bool renormalize : {false, true})
        expect_reference({.experts = experts, .top_k = top_k, .renormalize = renormalize},
                         random_matrix(50, experts, static_cast<unsigned>(experts + top_k), 2));
}

TEST(Route, NaNIsAnErrorOfTheInput) {
  const Matrix logits = one_row({1, std::numeric_limits<float>::quiet_NaN(), 2});
  try {
    choose({.experts = 3, .top_k = 1}, logits);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
  }
}

TEST(TokenNll, ByHand) {
  const Matrix logits = one_row({0, std::log(2.0F), std::log(5.0F)});
  for (const auto& [target, expected] : {std::pair{0, 2.0794415}, {1, 1.3862944}, {2, 0.4700036}}) {
    double nll = 0;
    token_nll(logits.view(), std::vector<std::int32_t>{target}, {&nll, 1});
    EXPECT_NEAR(nll, expected, 2e-7);
  }
}

TEST(TokenNll, AgreesWithDoublePrecision) {
  for (const Index vocabulary : {1, 2, 17, 512, 32003})
    for (const float offset : {0.0F, 1000.0F, -1000.0F}) {
      Matrix logits = random_matrix(4, vocabulary, 1, 4);
      for (float& value : logits.values) value += offset;
      const auto last = static_cast<std::int32_t>(vocabulary - 1);
      const std::vector<std::int32_t> targets = {0, last, last / 2, last / 3};
      std::vector<double> nll(4);
      token_nll(logits.view(), targets, nll);
      for (Index t = 0; t < 4; ++t) {
        const double shift = logits(t, targets[static_cast<std::size_t>(t)]);
        double sum = 0;
        for (const float logit : logits.view().row(t)) sum += std::exp(logit - shift);
        EXPECT_NEAR(nll[static_cast<std::size_t>(t)], std::log(sum), 3e-7) << vocabulary;
      }
    }
}

TEST(TokenNll, RefusesTargetsOutsideTheVocabulary) {
  const Matrix logits = one_row({1, 2});
  double nll = 0;
  EXPECT_THROW(token_nll(logits.view(), std::vector<std::int32_t>{2}, {&nll, 1}), Error);
}

}  // namespace
}  // namespace aq::runtime
