/// The solver of devices beside that of the CPU: kernels, tiles, batches.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/quant/hessian.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/solver.h"
#include "quant/cuda/factor.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

Factor factor_of(const Solver& solver, const Matrix& x, const GptqSettings& settings) {
  FactorTask task{.sum = sum_of(x, token_weights(x.rows)), .columns = x.columns};
  solver.factorize({&task, 1}, settings);
  return task.factor;
}

SolveTask solved(const Solver& solver, const Matrix& w, const Scheme& scheme, const Factor* factor,
                 const GptqSettings& settings) {
  SolveTask task{.weight = w.view(), .scheme = scheme, .factor = factor};
  if (scheme.group_size == kPerTensor)
    task.tensor_grid = fit_tensor_grid(scheme, w.view(), settings.scale_search);
  if (scheme.is_nvfp4()) task.global_scale = 4096;
  solver.solve({&task, 1}, settings);
  return task;
}

double total(const std::vector<double>& rows) {
  return std::accumulate(rows.begin(), rows.end(), 0.0);
}

double objective(const Matrix& w, const QuantizedMatrix& q, const Doubles& damped) {
  const Doubles values = values_of(q);
  double sum = 0;
  for (Index r = 0; r < w.rows; ++r) sum += row_objective(w, values, damped, r);
  return sum;
}

Doubles damped_of(const Matrix& x, const GptqSettings& settings) {
  const double damping = settings.damping + settings.few_tokens_damping *
                                                static_cast<double>(x.columns) /
                                                static_cast<double>(x.rows);
  const std::vector<float> weights = token_weights(x.rows);
  return naive_damped(naive_hessian(x, weights), sum_of(x, weights).weight_sum, damping);
}

/// Every format with its own group, then groups that are narrow, odd, wider than a block, the row.
std::vector<Scheme> schemes() {
  std::vector<Scheme> all;
  for (const std::string_view name : format_names()) all.push_back(*scheme_from_format(name));
  for (const Index group : {Index{5}, Index{16}, Index{48}, Index{100}, Index{172}, Index{256},
                            kPerChannel, kPerTensor}) {
    all.push_back(Scheme{.bits = 3, .group_size = group});
    all.push_back(Scheme{.bits = 4, .symmetric = false, .group_size = group});
  }
  return all;
}

/// Pairs in the memory of the CPU.
struct Pairs {
  std::vector<std::uint16_t> parts;
  explicit Pairs(const cuda::DevicePairs& pairs) : parts(pairs.parts().download()) {}
  float get(Index i) const {
    return cuda::from_bf16(parts[i]) + cuda::from_bf16(parts[parts.size() / 2 + i]);
  }
};

TEST(Device, FactorsAreThoseOfTheDampedMatrix) {
  for (const Index n : {1, 5, 128, 129, 200, 344, 700}) {
    const Matrix x = make_inputs(2 * n + 20, n, 11);
    GptqSettings settings;
    const Factor factor = factor_of(device_solver(), x, settings);
    ASSERT_TRUE(factor.usable());
    const Factor host = factor_of(cpu_solver(), x, settings);
    EXPECT_EQ(factor.damping, host.damping);
    EXPECT_EQ(factor.mean_diagonal, host.mean_diagonal);
    EXPECT_EQ(factor.tokens, host.tokens);
    const Matrix expected = factor_upper(host);
    const cuda::DeviceFactor& data = cuda::device_factor(factor);
    const std::vector<float> lower = data.lower.download();
    const Pairs upper(data.upper), h(data.h);
    const Doubles damped = damped_of(x, settings);
    const Index stride = data.stride;
    ASSERT_EQ(stride % cuda::kBlock, 0);
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < n; ++j) {
        const auto size = static_cast<double>(std::sqrt(damped(j, j)));  // of a column of U at most
        if (j >= i) {
          const float found = lower[(stride - 1 - i) * stride + stride - 1 - j];
          ASSERT_NEAR(found, expected(i, j), 1e-4 * size) << n << ": " << i << ", " << j;
          ASSERT_NEAR(upper.get(j * stride + i), found, 1e-5 * std::abs(found) + 1e-30);
        } else {
          ASSERT_EQ(upper.get(j * stride + i), 0);
        }
        ASSERT_NEAR(h.get(i * stride + j), damped(i, j),
                    2e-5 * std::sqrt(damped(i, i) * damped(j, j)));
      }
  }
}

TEST(Device, HessianSumsAgreeWithDoubles) {
  for (const Index n : {1, 5, 200, 300, 700}) {
    const Matrix x = make_inputs(90, n, 1);
    std::vector<std::int32_t> rows;
    std::vector<float> weights;
    for (std::int32_t t = 0; t < 70; ++t) {
      rows.push_back(t * 7 % 90);
      weights.push_back(static_cast<float>(t % 5) / 4);
    }
    WeightedSum sum;
    device_solver().add_tokens(sum, x.view(), {}, {}, 90);
    device_solver().add_tokens(sum, x.view(), rows, weights, 35);
    EXPECT_EQ(sum.tokens, 160);
    EXPECT_EQ(sum.weight_sum, 125);
    Matrix all(160, n);
    std::vector<float> of_all(90, 1.0F);
    of_all.insert(of_all.end(), weights.begin(), weights.end());
    for (Index t = 0; t < 160; ++t)
      std::ranges::copy(x.view().row(t < 90 ? t : rows[t - 90]), all.view().row(t).begin());
    const Doubles expected = naive_hessian(all, of_all);
    const Matrix found = hessian_natural(sum, n);
    for (Index r = 0; r < n; ++r)
      for (Index c = 0; c < n; ++c)
        ASSERT_NEAR(found(r, c), expected(r, c), 1e-5 * std::sqrt(expected(r, r) * expected(c, c)));
  }
}

struct Way {
  int refine;
  ScaleSearch search;
  ActOrder order;
};

/// Codes of a row part where a value lies between two levels, or a scale between two values: so a
/// single matrix may do a little better or worse.
TEST(Device, ObjectiveOfTheCpuInEveryFormat) {
  const Matrix x = make_inputs(500, 300, 11);
  const Matrix w = make_weights(66, 300, 7);
  for (const Way& way :
       {Way{0, ScaleSearch::absmax, ActOrder::none}, Way{0, ScaleSearch::hessian, ActOrder::fixed},
        Way{4, ScaleSearch::mse, ActOrder::none}, Way{4, ScaleSearch::absmax, ActOrder::fixed}}) {
    GptqSettings settings;
    settings.refine = way.refine;
    settings.scale_search = way.search;
    settings.act_order = way.order;
    const Factor device = factor_of(device_solver(), x, settings);
    const Factor host = factor_of(cpu_solver(), x, settings);
    const Doubles damped = damped_of(x, settings);
    double ratios = 0, shares = 0;
    for (const Scheme& scheme : schemes()) {
      SCOPED_TRACE(to_string(scheme) + ", refine " + std::to_string(way.refine));
      const SolveTask found = solved(device_solver(), w, scheme, &device, settings);
      const SolveTask expected = solved(cpu_solver(), w, scheme, &host, settings);
      const double naive = objective(w, found.result, damped);
      EXPECT_NEAR(total(found.error), naive, 1e-3 * naive);
      const double ratio = naive / objective(w, expected.result, damped);
      EXPECT_NEAR(ratio, 1, 5e-3);
      const double share = share_equal(codes_of(found.result), codes_of(expected.result));
      EXPECT_GT(share, 0.99);
      ratios += ratio;
      shares += share;
      for (Index r = 0; r < w.rows; ++r) {
        EXPECT_NEAR(found.norm[r], expected.norm[r], 1e-4 * expected.norm[r]);
        EXPECT_NEAR(found.error_rtn[r], expected.error_rtn[r], 1e-4 * expected.error_rtn[r]);
      }
    }
    const auto count = static_cast<double>(schemes().size());
    EXPECT_NEAR(ratios / count, 1, 1e-3);
    EXPECT_GT(shares / count, 0.999);
  }
}

/// At this width a code that differs carries many others of its row with it.
TEST(Device, RunsAndBlocksOfWideMatrices) {
  const Matrix x = make_inputs(600, 1100, 3);
  const Matrix w = make_weights(40, 1100, 4);
  const Scheme mx = *scheme_from_format("mxfp4"), narrow{.bits = 3, .group_size = 128};
  const auto compare = [&](ActOrder order, const std::vector<Scheme>& all) {
    GptqSettings settings;
    settings.scale_search = ScaleSearch::absmax;
    settings.refine = 2;
    settings.act_order = order;
    const Factor device = factor_of(device_solver(), x, settings);
    const Factor host = factor_of(cpu_solver(), x, settings);
    const Doubles damped = damped_of(x, settings);
    for (const Scheme& scheme : all) {
      const SolveTask found = solved(device_solver(), w, scheme, &device, settings);
      const SolveTask expected = solved(cpu_solver(), w, scheme, &host, settings);
      const double ratio =
          objective(w, found.result, damped) / objective(w, expected.result, damped);
      EXPECT_NEAR(ratio, 1, 5e-3) << to_string(scheme);
      EXPECT_GT(share_equal(codes_of(found.result), codes_of(expected.result)), 0.98)
          << to_string(scheme);
    }
  };
  compare(ActOrder::none, {Scheme{.group_size = 100}, narrow, Scheme{.group_size = 600},
                           Scheme{.group_size = kPerChannel}});
  compare(ActOrder::fixed, {narrow, mx});
}

TEST(Device, SlicesThreadsAndBatchesDoNotChangeBits) {
  const Matrix x = make_inputs(300, 200, 1);
  const Matrix w = make_weights(200, 200, 5);
  GptqSettings settings;
  settings.refine = 1;
  const Factor factor = factor_of(device_solver(), x, settings);
  for (const Scheme& scheme : {Scheme{.group_size = 32}, Scheme{.bits = 3, .group_size = 160},
                               Scheme{.bits = 5, .symmetric = false, .group_size = kPerTensor}}) {
    const SolveTask whole = solved(device_solver(), w, scheme, &factor, settings);
    const SolveTask slices = solved_in_slices(device_solver(), whole, {64, 64, 72}, settings);
    EXPECT_EQ(slices.result, whole.result);
    EXPECT_EQ(slices.error, whole.error);
    EXPECT_EQ(slices.norm, whole.norm);
    EXPECT_EQ(slices.weight_error, whole.weight_error);
  }
}

TEST(Device, FactorsTravel) {
  const Matrix x = make_inputs(300, 200, 1);
  const Matrix w = make_weights(64, 200, 5);
  GptqSettings settings;
  settings.act_order = ActOrder::fixed;
  const Solver& solver = device_solver();
  Factor factor = factor_of(solver, x, settings);
  Factor copy = solver.make_factor(solver.header_of(factor));
  const std::vector<Buffer> from = solver.arrays_of(factor), to = solver.arrays_of(copy);
  ASSERT_EQ(from.size(), to.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].bytes.size(), to[i].bytes.size());
    std::ranges::copy(from[i].bytes, to[i].bytes.begin());
  }
  EXPECT_EQ(solved(solver, w, Scheme{}, &copy, settings).result,
            solved(solver, w, Scheme{}, &factor, settings).result);
}

/// A unit matrix but for (4, 5).
FactorTask correlated(float a) {
  std::vector<float> upper;
  for (Index i = 0; i < 20; ++i)
    for (Index j = i; j < 20; ++j) upper.push_back(i == j ? 1.0F : (i == 4 && j == 5 ? a : 0.0F));
  return {.sum = {hessian_values(upper, 20), 1, 1}, .columns = 20};
}

TEST(Device, TheLadderIsThatOfTheCpu) {
  const auto make_tasks = [] {
    std::vector<FactorTask> tasks;
    for (const float a : {0.9F, 1.05F, 1.5F, 5.0F, 12.0F}) tasks.push_back(correlated(a));
    tasks.push_back({.sum = {}, .columns = 20});
    tasks.push_back(correlated(0));
    tasks.back().sum.values[0] = std::nanf("");
    tasks.push_back(correlated(0));
    std::ranges::fill(tasks.back().sum.values, 0.0F);
    // Singular in float; see the test of the CPU.
    const std::vector<float> close{1, 1 + 0x1p-23F, 1 + 0x1p-22F};
    tasks.push_back({.sum = {hessian_values(close, 2), 1, 1}, .columns = 2});
    return tasks;
  };
  for (const double damping : {0.01, 0x1p-40}) {
    const GptqSettings settings{.damping = damping, .few_tokens_damping = 0};
    std::vector<FactorTask> found = make_tasks(), expected = make_tasks();
    device_solver().factorize(found, settings);
    cpu_solver().factorize(expected, settings);
    for (std::size_t i = 0; i < found.size(); ++i) {
      SCOPED_TRACE(i);
      const Factor &a = found[i].factor, &b = expected[i].factor;
      EXPECT_EQ(a.fallback, b.fallback);
      EXPECT_EQ(a.damping, b.damping);
      EXPECT_EQ(a.rtn_reason, b.rtn_reason);
      EXPECT_EQ(a.usable(), a.data != nullptr);
      EXPECT_TRUE(found[i].sum.values.empty());
      if (!a.usable()) continue;
      const Matrix w = make_weights(20, found[i].columns, 5);
      const Scheme scheme{.group_size = 16};
      EXPECT_EQ(solved(device_solver(), w, scheme, &a, settings).result,
                solved(cpu_solver(), w, scheme, &b, settings).result);
    }
  }
}

TEST(Device, WithoutAFactorItRounds) {
  const Matrix w = make_weights(70, 400, 6);
  std::vector<Scheme> all = schemes();  // and wide groups that end inside of blocks
  for (const Index group : {Index{160}, Index{192}, Index{300}})
    all.push_back(Scheme{.bits = 4, .symmetric = false, .group_size = group});
  for (const Scheme& scheme : all)
    EXPECT_EQ(solved(device_solver(), w, scheme, nullptr, GptqSettings{}).result,
              solved(cpu_solver(), w, scheme, nullptr, GptqSettings{}).result)
        << to_string(scheme);
}

TEST(Device, TasksOfDifferentKindsAtOnce) {
  GptqSettings settings;
  settings.refine = 1;
  const Factor wide = factor_of(device_solver(), make_inputs(300, 200, 1), settings);
  const Factor narrow = factor_of(device_solver(), make_inputs(300, 70, 2), settings);
  const Matrix a = make_weights(64, 200, 3), b = make_weights(100, 200, 4),
               c = make_weights(64, 70, 5);
  const Scheme scheme{.group_size = 32};
  std::vector<SolveTask> tasks{
      {.weight = a.view(), .scheme = scheme, .factor = &wide},
      {.weight = c.view(), .scheme = scheme, .factor = &narrow},
      {.weight = b.view(), .scheme = scheme, .factor = &wide},
      {.weight = a.view(), .scheme = scheme, .refine = false, .factor = &wide},
      {.weight = a.view(), .scheme = scheme},
      {.weight = a.view(), .scheme = Scheme{.bits = 3}, .factor = &wide}};
  std::vector<SolveTask> alone = tasks;
  device_solver().solve(tasks, settings);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    device_solver().solve({&alone[i], 1}, settings);
    EXPECT_EQ(tasks[i].result, alone[i].result) << i;
    EXPECT_EQ(tasks[i].error, alone[i].error) << i;
  }
}

TEST(Device, GpusAreDealtOneEach) {
  using Seen = std::vector<std::vector<std::string>>;
  EXPECT_EQ(deal_gpus(Seen{{"a", "b"}, {"a", "b"}}), (std::vector<int>{0, 1}));
  EXPECT_EQ(deal_gpus(Seen{{"a"}, {"b"}, {"c"}}), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(deal_gpus(Seen{{"a"}, {"a"}}), (std::vector<int>{0, -1}));
  EXPECT_EQ(deal_gpus(Seen{{}, {"a", "b"}, {"b", "a"}, {"a", "b"}}),
            (std::vector<int>{-1, 0, 0, -1}));
}

TEST(Device, TilesWhoseErrorsOverflowAreRounded) {
  const Matrix x = make_inputs(300, 64, 1);
  Matrix w = make_weights(130, 64, 5);
  w(70, 3) = 3e38F;
  w(70, 4) = -3e38F;
  const GptqSettings settings;
  const Scheme scheme{.group_size = 32};
  const Factor device = factor_of(device_solver(), x, settings);
  const Factor host = factor_of(cpu_solver(), x, settings);
  const SolveTask found = solved(device_solver(), w, scheme, &device, settings);
  const SolveTask expected = solved(cpu_solver(), w, scheme, &host, settings);
  EXPECT_EQ(slice_rows(found.result, 64, 64), slice_rows(expected.result, 64, 64));
  for (Index r = 0; r < w.rows; ++r)
    EXPECT_EQ(std::isfinite(found.error[r]), r < 64 || r >= 128) << r;
}

}  // namespace
}  // namespace aq::test
