/// Scale search, float grids, static act-order and refinement against slow double-precision code.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/formats/grid_math.h"
#include "aq/quant/solver.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/solver.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

struct Problem {
  Matrix x;
  WeightedSum sum;
  Doubles damped;

  explicit Problem(Index tokens, Index columns)
      : x(make_inputs(tokens, columns, 11)),
        sum(sum_of(x)),
        damped(naive_damped(naive_hessian(x, {}), sum.weight_sum, 0.01)) {}
};

const Problem& problem() {
  static const Problem one(400, 200);
  return one;
}

float global_scale_of(const Scheme& scheme, const Matrix& w) {
  float absmax = 0;
  for (const float value : w.values) absmax = std::max(absmax, std::abs(value));
  return fit_global_scale(scheme, absmax);
}

SolveTask solved(const Matrix& w, const Scheme& scheme, const Factor& factor,
                 const GptqSettings& settings, ScaleRule rule = ScaleRule::best) {
  SolveTask task{.weight = w.view(), .scheme = scheme, .scale_rule = rule, .factor = &factor};
  task.global_scale = global_scale_of(scheme, w);
  if (scheme.group_size == kPerTensor)
    task.tensor_grid = fit_tensor_grid(scheme, w.view(), settings.scale_search);
  solve({&task, 1}, settings);
  return task;
}

double total(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// Every format, and groups that begin and end inside a panel of columns.
std::vector<Scheme> schemes() {
  std::vector<Scheme> all;
  for (const std::string_view name : format_names()) all.push_back(*scheme_from_format(name));
  for (const Index group : {Index{12}, Index{100}, kPerChannel, kPerTensor}) {
    all.push_back({.bits = 3, .group_size = group});
    all.push_back({.bits = 2, .symmetric = false, .group_size = group});
    Scheme fp4 = *scheme_from_format("fp4");
    fp4.group_size = group;
    all.push_back(fp4);
  }
  return all;
}

std::vector<GptqSettings> all_settings() {
  std::vector<GptqSettings> all;
  for (const ScaleSearch search : {ScaleSearch::absmax, ScaleSearch::mse, ScaleSearch::hessian})
    for (const ActOrder order : {ActOrder::none, ActOrder::fixed})
      for (const int refine : {0, 2}) {
        GptqSettings settings{.few_tokens_damping = 0};
        settings.scale_search = search;
        settings.act_order = order;
        settings.refine = refine;
        all.push_back(settings);
      }
  return all;
}

/// What is reported is the error of what is stored, and refinement never makes a row worse.
TEST(Defaults, TheReportedErrorIsThatOfTheStoredMatrix) {
  const Problem& p = problem();
  const Matrix w = make_weights(37, 200, 3);
  for (const GptqSettings& settings : all_settings()) {
    const Factor factor = factorize(p.sum, 200, settings);
    GptqSettings unrefined = settings;
    unrefined.refine = 0;
    for (const Scheme& scheme : schemes()) {
      SCOPED_TRACE(str(to_string(scheme), ", search ", static_cast<int>(settings.scale_search),
                       " order ", static_cast<int>(settings.act_order), " refine ",
                       settings.refine));
      const SolveTask task = solved(w, scheme, factor, settings);
      const SolveTask before = solved(w, scheme, factor, unrefined);
      const Doubles values = values_of(task.result);
      for (Index r = 0; r < w.rows; ++r) {
        const auto i = static_cast<std::size_t>(r);
        const double row = row_objective(w, values, p.damped, r);
        ASSERT_NEAR(task.error[i], row, 1e-3 * row + 1e-9) << r;
        ASSERT_LE(task.error[i], before.error[i] * (1 + 1e-6));
      }
      if (settings.refine > 0) {
        EXPECT_LT(total(task.error), total(before.error));
      }
      for (const float scale : task.result.scales) {
        const float magnitude = std::abs(scale) * task.result.global_scale;
        ASSERT_EQ(magnitude, round_scale(scheme.scale_type, magnitude));
      }
    }
  }
}

/// Least squared error among the documented candidates, found one by one with the slow codec.
TEST(Defaults, ScaleSearchFindsTheBestCandidate) {
  const Matrix w = make_weights(5, 64, 8);
  const Factor none;
  for (const std::string_view name : format_names()) {
    const Scheme scheme = *scheme_from_format(name);
    SolveTask task{.weight = w.view(), .scheme = scheme};
    task.global_scale = global_scale_of(scheme, w);
    GptqSettings settings{.few_tokens_damping = 0};
    solve({&task, 1}, settings);
    const Index width = group_width(scheme, 64);
    for (Index r = 0; r < w.rows; ++r)
      for (Index begin = 0; begin < 64; begin += width) {
        const auto group = w.view().row(r).subspan(begin, width);
        const auto error_of = [&](const Grid& grid) {
          double error = 0;
          for (const float value : group)
            error += std::pow(value - decode(scheme, grid, encode(scheme, grid, value)), 2);
          return error;
        };
        const auto [low, high] = std::minmax_element(group.begin(), group.end());
        double best = 1e30;
        for (int k = 0; k < 24; ++k)
          for (const float sign : {1.0F, -1.0F}) {
            if (scheme.is_mx() && k > 2) continue;
            if (sign < 0 && scheme.is_float()) continue;
            const float shrink = scheme.is_mx() ? 1 : 1 - 0.03F * static_cast<float>(k);
            Grid grid = fit_grid(scheme, std::min(*low, 0.0F) * shrink,
                                 std::max(*high, 0.0F) * shrink, ScaleRule::ocp, task.global_scale);
            if (scheme.is_mx()) grid.scale *= k == 1 ? 2.0F : k == 2 ? 0.5F : 1.0F;
            grid.scale *= sign;
            best = std::min(best, error_of(grid));
          }
        EXPECT_NEAR(error_of(grid_at(task.result, r, begin / width)), best, 1e-5 * best) << name;
      }
  }
}

TEST(Defaults, ScaleRulesOfMx) {
  const Matrix w = make_weights(20, 96, 4);
  const Scheme scheme = *scheme_from_format("mxfp4");
  const auto error_of = [&](ScaleRule rule) {
    SolveTask task{.weight = w.view(), .scheme = scheme, .scale_rule = rule};
    solve({&task, 1}, plain_gptq());
    std::vector<double> errors;  // one a group
    const Doubles values = values_of(task.result);
    for (Index r = 0; r < 20; ++r)
      for (Index begin = 0; begin < 96; begin += 32) {
        double error = 0;
        for (Index c = begin; c < begin + 32; ++c) error += std::pow(values(r, c) - w(r, c), 2);
        errors.push_back(error);
      }
    return errors;
  };
  const auto ocp = error_of(ScaleRule::ocp);
  const auto ceil = error_of(ScaleRule::ceil);
  const auto best = error_of(ScaleRule::best);
  for (std::size_t i = 0; i < best.size(); ++i)
    EXPECT_NEAR(best[i], std::min(ocp[i], ceil[i]), 1e-5 * best[i]);
  EXPECT_NE(ocp, ceil);
}

/// Coordinate descent: afterwards no single code can be changed for the better.
TEST(Defaults, RefinementEndsWhereNoCodeCanBeImproved) {
  const Problem& p = problem();
  const Matrix w = make_weights(6, 200, 3);
  GptqSettings settings{.few_tokens_damping = 0};
  settings.refine = 60;
  const Factor factor = factorize(p.sum, 200, settings);
  for (const std::string_view name : {"int2", "int4", "mxfp4", "nvfp4", "fp8"}) {
    Scheme scheme = *scheme_from_format(name);
    if (!scheme.is_float()) scheme.group_size = 32;
    const SolveTask task = solved(w, scheme, factor, settings);
    const std::vector<std::uint8_t> codes = codes_of(task.result);
    const Doubles values = values_of(task.result);
    for (Index r = 0; r < w.rows; ++r)
      for (Index c = 0; c < 200; ++c) {
        const Grid grid = grid_at(task.result, r, c / group_width(scheme, 200));
        double gradient = 0;
        for (Index k = 0; k < 200; ++k) gradient += (w(r, k) - values(r, k)) * p.damped(k, c);
        for (int code = 0; code < 1 << scheme.bits; ++code) {
          const double other = decode(scheme, grid, static_cast<std::uint8_t>(code));
          if (!std::isfinite(other)) continue;
          const double step = other - values(r, c);
          const double gain = step * (2 * gradient - step * p.damped(c, c));
          EXPECT_LT(gain, 1e-4 * p.damped(c, c) * grid.scale * grid.scale)
              << name << " " << r << " " << c << " " << code;
        }
      }
  }
}

/// Static act-order is GPTQ on the permuted problem with the grids of the original groups.
TEST(Defaults, StaticActOrderIsThePermutedProblem) {
  const Problem& p = problem();
  const Matrix w = make_weights(30, 200, 3);
  const Scheme scheme{.bits = 4, .group_size = 32};
  GptqSettings settings = plain_gptq();
  settings.act_order = ActOrder::fixed;
  const Factor factor = factorize(p.sum, 200, settings);
  std::vector<Index> order(200);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](Index a, Index b) { return p.damped(a, a) > p.damped(b, b); });
  ASSERT_TRUE(std::equal(order.begin(), order.end(), cpu_factor(factor).order.begin(),
                         cpu_factor(factor).order.end()));
  Doubles permuted(200, 200);
  const auto at = [&](Index i) { return order[i]; };
  for (Index i = 0; i < 200; ++i)
    for (Index j = 0; j < 200; ++j) permuted(i, j) = p.damped(at(i), at(j));
  const Doubles inverse = naive_inverse_factor(permuted);
  const SolveTask task = solved(w, scheme, factor, settings);
  const std::vector<std::uint8_t> codes = codes_of(task.result);
  Index equal = 0;
  for (Index r = 0; r < w.rows; ++r) {
    std::vector<double> row(200);
    for (Index i = 0; i < 200; ++i) row[i] = w(r, at(i));
    for (Index i = 0; i < 200; ++i) {
      const Index group = at(i) / 32;
      const auto values =
          w.view().row(r).subspan(group * 32, std::min<Index>(32, 200 - group * 32));
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      const Grid grid = fit_grid(scheme, *low, *high);
      const double value = row[i];
      const double code = std::clamp(std::nearbyint(value / grid.scale) + 8, 0.0, 15.0);
      const double error = (value - (code - 8) * grid.scale) / inverse(i, i);
      for (Index k = i + 1; k < 200; ++k) row[k] -= error * inverse(i, k);
      equal += codes[r * 200 + at(i)] == static_cast<int>(code);
    }
  }
  EXPECT_GE(equal, 30 * 200 * 0.998);
}

TEST(Defaults, SlicesThreadsAndBlocksGiveTheSameBits) {
  const Problem& p = problem();
  const Matrix w = make_weights(150, 200, 5);
  for (GptqSettings settings : all_settings()) {
    const Factor factor = factorize(p.sum, 200, settings);
    for (const Scheme& scheme : {Scheme{.bits = 2, .group_size = 32}, *scheme_from_format("nvfp4"),
                                 *scheme_from_format("mxfp6")}) {
      const SolveTask whole = solved(w, scheme, factor, settings);
      set_thread_count(2);
      settings.block = 24;
      SolveTask slice{.weight = w.view().slice_rows(64, 86),
                      .first_row = 64,
                      .scheme = scheme,
                      .global_scale = whole.global_scale,
                      .factor = &factor};
      solve({&slice, 1}, settings);
      set_thread_count(1);
      settings.block = 128;
      EXPECT_EQ(slice.result, slice_rows(whole.result, 64, 86));
    }
  }
}

TEST(Defaults, EachStepLowersTheError) {
  const Problem& p = problem();
  const Matrix w = make_weights(60, 200, 5);
  GptqSettings settings = plain_gptq();
  for (const int bits : {2, 3, 4}) {
    const Scheme scheme{.bits = bits, .group_size = 32};
    const Factor factor = factorize(p.sum, 200, GptqSettings{});
    const double plain = total(solved(w, scheme, factor, settings).error);
    GptqSettings search = settings;
    search.scale_search = ScaleSearch::mse;
    search.negative_scales = false;
    const double searched = total(solved(w, scheme, factor, search).error);
    search.negative_scales = true;
    const double both_signs = total(solved(w, scheme, factor, search).error);
    const double all = total(solved(w, scheme, factor, GptqSettings{}).error);
    EXPECT_LT(searched, plain) << bits;
    EXPECT_LT(both_signs, searched) << bits;
    EXPECT_LT(all, 0.85 * both_signs) << bits;
  }
}

TEST(Defaults, TooFewTokensAreNotRefined) {
  const Problem& p = problem();
  const Matrix w = make_weights(20, 200, 5);
  const Factor factor = factorize(p.sum, 200, GptqSettings{});
  GptqSettings unrefined;
  unrefined.refine = 0;
  SolveTask task{.weight = w.view(), .scheme = {.group_size = 32}, .factor = &factor};
  task.refine = false;
  solve({&task, 1}, GptqSettings{});
  EXPECT_EQ(task.result, solved(w, {.group_size = 32}, factor, unrefined).result);
}

}  // namespace
}  // namespace aq::test
