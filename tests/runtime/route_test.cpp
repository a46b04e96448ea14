#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

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

Choice choose(const RouterSpec& spec, const Matrix& logits, const FloatArray& correction = {}) {
  Choice choice = {std::vector<std::int32_t>(logits.rows * spec.top_k, -1),
                   Matrix(logits.rows, spec.top_k)};
  route(spec, logits.view(), correction, {choice.index.data(), logits.rows, spec.top_k},
        choice.weight.view());
  return choice;
}

Matrix one_row(const FloatArray& values) {
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
  EXPECT_EQ(equal.weight.values, (FloatArray{0.25F, 0.25F, 0.25F}));
}

TEST(Route, OneExpert) {
  const Choice choice = choose({.experts = 1, .top_k = 1, .renormalize = true}, one_row({-3}));
  EXPECT_EQ(choice.index, std::vector<std::int32_t>{0});
  EXPECT_EQ(choice.weight(0, 0), 1);
}

TEST(Route, ExtremeLogits) {
  const Choice choice = choose({.experts = 4, .top_k = 4}, one_row({-1e30F, 1e30F, 3e38F, -3e38F}));
  EXPECT_EQ(choice.index, (std::vector<std::int32_t>{2, 0, 1, 3}));
  EXPECT_EQ(choice.weight.values, (FloatArray{1, 0, 0, 0}));
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
    std::ranges::stable_sort(order,
                             [&](std::int32_t a, std::int32_t b) { return score[a] > score[b]; });
    double chosen = 0;
    for (Index i = 0; i < spec.top_k; ++i) chosen += score[order[i]];
    for (Index i = 0; i < spec.top_k; ++i) {
      const std::int32_t expert = order[i];
      EXPECT_EQ(got.index[t * spec.top_k + i], expert);
      const double expected = score[expert] / (spec.renormalize ? chosen : sum);
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

/// Scores 0.5, 0.8, 0.2, 0.75; the corrections change who is chosen, not the factors.
TEST(Route, CorrectionIsForTheChoiceAlone) {
  const Matrix logits = one_row({0, std::log(4.0F), -std::log(4.0F), std::log(3.0F)});
  RouterSpec spec = {.experts = 4, .top_k = 2, .score = RouterScore::sigmoid};
  EXPECT_EQ(choose(spec, logits).index, (std::vector<std::int32_t>{1, 3}));
  const FloatArray correction = {0.5F, 0, 0.7F, 0};  // sums 1, 0.8, 0.9, 0.75
  const Choice plain = choose(spec, logits, correction);
  EXPECT_EQ(plain.index, (std::vector<std::int32_t>{0, 2}));
  EXPECT_FLOAT_EQ(plain.weight(0, 0), 0.5F);
  EXPECT_FLOAT_EQ(plain.weight(0, 1), 0.2F);
  spec.renormalize = true;
  spec.scale = 2.5;
  const Choice scaled = choose(spec, logits, correction);
  EXPECT_FLOAT_EQ(scaled.weight(0, 0), 2.5F * 5 / 7);
  EXPECT_FLOAT_EQ(scaled.weight(0, 1), 2.5F * 2 / 7);
  // chosen second by its sum, first by its score
  EXPECT_EQ(choose(spec, logits, {0.5F, 0.1F, 0, 0}).index, (std::vector<std::int32_t>{1, 0}));
}

/// The best expert of all is alone in its group.
TEST(Route, Groups) {
  const Matrix logits = one_row({9, -5, 3, 2, 1, 4});
  RouterSpec spec = {.experts = 6, .top_k = 2, .groups = 3, .kept_groups = 1};
  EXPECT_EQ(choose(spec, logits).index, (std::vector<std::int32_t>{0, 1}));
  spec.group_score = GroupScore::two_largest;
  spec.score = RouterScore::softmax_of_chosen;
  const Choice tie = choose(spec, logits);  // 4, 5, 5: nothing of the first group
  EXPECT_EQ(tie.index, (std::vector<std::int32_t>{2, 3}));
  EXPECT_FLOAT_EQ(tie.weight(0, 0), 0.73105858F);
  spec.kept_groups = 2;
  EXPECT_EQ(choose(spec, logits).index, (std::vector<std::int32_t>{5, 2}));
  spec.kept_groups = 3;
  EXPECT_EQ(choose(spec, logits).index, (std::vector<std::int32_t>{0, 5}));
}

TEST(Route, ExpertsOfDroppedGroupsAreNeverChosen) {
  const Matrix logits = one_row({-50, -60, 3, 2});
  const RouterSpec spec = {.experts = 4,
                           .top_k = 2,
                           .score = RouterScore::sigmoid,
                           .groups = 2,
                           .kept_groups = 1,
                           .group_score = GroupScore::two_largest};
  // the sums of the kept experts are negative: a dropped one counts for less than 0
  EXPECT_EQ(choose(spec, logits, {-1, -2, -9, -9}).index, (std::vector<std::int32_t>{0, 1}));
}

TEST(Route, SigmoidExtremes) {
  RouterSpec spec = {.experts = 4, .top_k = 3, .score = RouterScore::sigmoid};
  const Choice choice = choose(spec, one_row({-1e30F, 1e30F, 40, 3e38F}));
  EXPECT_EQ(choice.index, (std::vector<std::int32_t>{1, 2, 3}));  // all are 1
  EXPECT_EQ(choice.weight.values, (FloatArray{1, 1, 1}));
  spec.renormalize = true;
  spec.scale = 2;
  const Matrix none = one_row({-1e30F, -2e30F, -1e30F, -1e30F});
  EXPECT_EQ(choose(spec, none).weight.values, (FloatArray{0, 0, 0}));  // 0 / 1e-20
}

using Keys = std::vector<double>;

/// Places by falling key, equals in order.
std::vector<std::size_t> by_falling(const Keys& keys) {
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](auto a, auto b) { return keys[a] > keys[b]; });
  return order;
}

/// Scores rounded to fp32; for softmax_of_chosen the logits.
Keys scores_of(RouterScore kind, std::span<const float> logits) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  Keys scores;
  for (const float logit : logits) {
    const double e = std::exp(double{logit});
    const double score =
        kind == RouterScore::softmax ? e / sum : 1 / (1 + std::exp(-double{logit}));
    scores.push_back(kind == RouterScore::softmax_of_chosen ? logit : static_cast<float>(score));
  }
  return scores;
}

/// The experts of the kept groups.
std::vector<bool> allowed(const RouterSpec& spec, const Keys& keys) {
  const auto size = static_cast<std::ptrdiff_t>(spec.experts / spec.groups);
  Keys groups;
  for (auto begin = keys.begin(); begin != keys.end(); begin += size) {
    Keys part(begin, begin + size);
    std::ranges::sort(part, std::greater());
    groups.push_back(spec.group_score == GroupScore::largest ? part[0] : part[0] + part.at(1));
  }
  std::vector<bool> result(keys.size(), false);
  const auto order = by_falling(groups);
  for (std::size_t g = 0; g < static_cast<std::size_t>(spec.kept_groups); ++g)
    for (std::size_t i = 0; i < static_cast<std::size_t>(size); ++i)
      result[order[g] * static_cast<std::size_t>(size) + i] = true;
  return result;
}

/// Chosen experts with their factors, by falling score.
std::vector<std::pair<std::int32_t, double>> slow_route(const RouterSpec& spec,
                                                        std::span<const float> logits,
                                                        const FloatArray& correction) {
  const Keys scores = scores_of(spec.score, logits);
  Keys sums = scores;
  for (std::size_t e = 0; e < correction.size(); ++e) sums[e] += correction[e];
  const auto in_kept_group = allowed(spec, sums);
  std::vector<std::size_t> chosen;
  for (const std::size_t e : by_falling(sums))
    if (in_kept_group[e] && std::ssize(chosen) < spec.top_k) chosen.push_back(e);
  std::ranges::sort(chosen);
  std::ranges::stable_sort(chosen, [&](auto a, auto b) { return scores[a] > scores[b]; });
  const bool late = spec.score == RouterScore::softmax_of_chosen;
  double sum = 0;
  for (const std::size_t e : chosen) sum += late ? std::exp(scores[e]) : scores[e];
  std::vector<std::pair<std::int32_t, double>> result;
  for (const std::size_t e : chosen) {
    const double score = late ? std::exp(scores[e]) / sum : scores[e];
    const double factor = spec.renormalize && !late ? score / (sum + 1e-20) : score;
    result.emplace_back(static_cast<std::int32_t>(e), factor * spec.scale);
  }
  return result;
}

void expect_slow(const RouterSpec& spec, const Matrix& logits, const FloatArray& correction) {
  const Choice got = choose(spec, logits, correction);
  for (Index t = 0; t < logits.rows; ++t) {
    const auto expected = slow_route(spec, logits.view().row(t), correction);
    for (Index i = 0; i < spec.top_k; ++i) {
      const auto& [expert, factor] = expected[i];
      ASSERT_EQ(got.index[t * spec.top_k + i], expert)
          << "token " << t << ", place " << i << ", experts " << spec.experts << ", groups "
          << spec.groups;
      ASSERT_NEAR(got.weight(t, i) / factor, 1, 3e-7);
    }
  }
}

/// Logits and corrections, in half of the cases multiples of 1/2 and 1/4: with many ties.
void expect_slow(const RouterSpec& spec, unsigned seed) {
  for (const bool ties : {false, true})
    for (const bool corrected : {false, true}) {
      Matrix logits = random_matrix(40, spec.experts, seed, 2);
      FloatArray correction = random_matrix(1, spec.experts, seed + 1, 0.5F).values;
      if (ties) {
        for (float& logit : logits.values) logit = std::round(2 * logit) / 2;
        for (float& value : correction) value = std::round(4 * value) / 4;
      }
      if (!corrected) correction.clear();
      expect_slow(spec, logits, correction);
    }
}

TEST(Route, EverySpecAgreesWithASlowOne) {
  unsigned seed = 0;
  for (const RouterScore score :
       {RouterScore::softmax, RouterScore::sigmoid, RouterScore::softmax_of_chosen})
    for (const Index experts : {8, 32, 64, 256})
      for (const auto& [groups, kept] : {std::pair<Index, Index>{1, 1}, {2, 1}, {4, 3}, {4, 4}})
        for (const GroupScore group : {GroupScore::largest, GroupScore::two_largest})
          for (const bool renormalize : {false, true})
            expect_slow({.experts = experts,
                         .top_k = std::min<Index>(8, experts / groups * kept),
                         .score = score,
                         .renormalize = renormalize,
                         .scale = renormalize ? 2.5 : 1,
                         .groups = groups,
                         .kept_groups = kept,
                         .group_score = group},
                        seed += 2);
}

TEST(Route, RefusesShapesThatDoNotFit) {
  const Matrix logits(1, 6);
  EXPECT_NO_THROW(choose({.experts = 6, .top_k = 4, .groups = 3, .kept_groups = 2}, logits));
  EXPECT_THROW(choose({.experts = 6, .top_k = 5, .groups = 3, .kept_groups = 2}, logits), Error);
  EXPECT_THROW(choose({.experts = 6, .top_k = 1, .groups = 4, .kept_groups = 2}, logits), Error);
  EXPECT_THROW(choose({.experts = 6, .top_k = 1, .groups = 3, .kept_groups = 4}, logits), Error);
  EXPECT_THROW(choose({.experts = 6, .top_k = 1}, logits, FloatArray(5)), Error);
}

void expect_input_error(const Matrix& logits, const FloatArray& correction) {
  try {
    choose({.experts = 3, .top_k = 1}, logits, correction);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
  }
}

TEST(Route, NaNIsAnErrorOfTheInput) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  expect_input_error(one_row({1, kNaN, 2}), {});
  expect_input_error(one_row({1, 3, 2}), {0, 0, kNaN});
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
        const double shift = logits(t, targets[t]);
        double sum = 0;
        for (const float logit : logits.view().row(t)) sum += std::exp(logit - shift);
        EXPECT_NEAR(nll[t], std::log(sum), 3e-7) << vocabulary;
      }
    }
}

TEST(TokenNll, RefusesTargetsOutsideTheVocabulary) {
  const Matrix logits = one_row({1, 2});
  double nll = 0;
  EXPECT_THROW(token_nll(logits.view(), std::vector<std::int32_t>{2}, {&nll, 1}), Error);
}

TEST(CompareDistributions, ByHand) {
  // p = 1/2, 1/4, 1/4 and q = 1/4, 1/4, 1/2.
  const Matrix p = one_row({std::log(2.0F), 0, 0});
  const Matrix q = one_row({7, 7, 7 + std::log(2.0F)});
  TokenDistance distance;
  compare_distributions(p.view(), q.view(), {&distance, 1});
  EXPECT_NEAR(distance.kl, 0.25 * std::log(2.0), 4e-7);
  EXPECT_FALSE(distance.same_top1);
  compare_distributions(q.view(), q.view(), {&distance, 1});
  EXPECT_EQ(distance.kl, 0);
  EXPECT_TRUE(distance.same_top1);
}

TEST(CompareDistributions, OfEqualLogitsTheFirstIsTheLikeliest) {
  TokenDistance distance;
  compare_distributions(one_row({1, 2, 2}).view(), one_row({0, 3, 1}).view(), {&distance, 1});
  EXPECT_TRUE(distance.same_top1);
  compare_distributions(one_row({1, 2, 2}).view(), one_row({0, 1, 3}).view(), {&distance, 1});
  EXPECT_FALSE(distance.same_top1);
}

double kl_in_double(std::span<const float> p, std::span<const float> q) {
  const auto log_sum = [](std::span<const float> logits) {
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - logits[0]);
    return std::log(sum) + logits[0];
  };
  const double of_p = log_sum(p), of_q = log_sum(q);
  double kl = 0;
  for (std::size_t i = 0; i < p.size(); ++i)
    kl += std::exp(p[i] - of_p) * ((p[i] - of_p) - (q[i] - of_q));
  return kl;
}

TEST(CompareDistributions, AgreesWithDoublePrecision) {
  for (const Index vocabulary : {1, 2, 17, 512, 32003})
    for (const float distance : {0.001F, 0.1F, 5.0F}) {
      const Matrix p = random_matrix(4, vocabulary, 1, 4);
      Matrix q = random_matrix(4, vocabulary, 2, distance);
      for (std::size_t i = 0; i < q.values.size(); ++i) q.values[i] += p.values[i];
      std::vector<TokenDistance> got(4);
      compare_distributions(p.view(), q.view(), got);
      for (Index t = 0; t < 4; ++t)
        EXPECT_NEAR(got[t].kl, kl_in_double(p.view().row(t), q.view().row(t)),
                    4e-7 + 4e-7 * distance)
            << vocabulary << " " << distance;
    }
}

TEST(CompareDistributions, RefusesOtherShapes) {
  TokenDistance distance;
  EXPECT_THROW(compare_distributions(one_row({1, 2}).view(), one_row({1}).view(), {&distance, 1}),
               Error);
  EXPECT_THROW(compare_distributions(one_row({1}).view(), one_row({1}).view(), {}), Error);
}

}  // namespace
}  // namespace aq::runtime
