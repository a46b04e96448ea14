/// Sweeps under an output factor, of every solver, beside doubles.

#include "aq/quant/output_factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/cpu/solver.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

constexpr Index kTokens = 400, kColumns = 136, kRows = 100;

const Solver* const kSolvers[] = {&cpu_solver(), &device_solver()};

/// Σ g gᵀ of every tile of rows.
Matrix output_sum(const Matrix& g) {
  Matrix sum(g.columns, kRowTile);
  for (Index r = 0; r < g.columns; ++r) {
    const Index first = r / kRowTile * kRowTile;
    for (Index c = first; c < std::min(first + kRowTile, g.columns); ++c)
      for (Index t = 0; t < g.rows; ++t) sum(r, c - first) += g(t, r) * g(t, c);
  }
  return sum;
}

/// A matrix, its inputs, and gradients by its outputs.
struct Problem {
  Matrix x = make_inputs(kTokens, kColumns, 3), w = make_weights(kRows, kColumns, 5);
  Matrix g = make_inputs(kTokens, kRows, 7), sum = output_sum(g);

  void set_gradients(Matrix other) {
    g = std::move(other);
    sum = output_sum(g);
  }

  Factor factor(const Solver& solver, const GptqSettings& settings) const {
    FactorTask task{.sum = sum_of(x), .columns = kColumns};
    solver.factorize({&task, 1}, settings);
    return task.factor;
  }

  /// B / mean(diag B) + β I of the tile that row `row` lies in, between it and `other`.
  double coupling(Index row, Index other) const {
    const Index first = row / kRowTile * kRowTile, last = std::min(first + kRowTile, kRows);
    if (other < first || other >= last) return 0;
    double trace = 0, value = 0;
    for (Index t = 0; t < kTokens; ++t) {
      for (Index r = first; r < last; ++r) trace += double{g(t, r)} * g(t, r);
      value += double{g(t, row)} * g(t, other);
    }
    const double damping = 0.3 + 64.0 / static_cast<double>(kTokens);
    return value / (trace / static_cast<double>(last - first)) + (row == other ? damping : 0);
  }
};

/// tr(B E H Eᵀ) over tiles, and what it is made of.
struct Objective {
  const Problem& problem;
  Doubles h, b{kRows, kRows};

  Objective(const Problem& of, double damping)
      : problem(of),
        h(naive_damped(naive_hessian(of.x, std::vector<float>(kTokens, 1.0F)), kTokens, damping)) {
    for (Index i = 0; i < kRows; ++i)
      for (Index k = 0; k < kRows; ++k) b(i, k) = of.coupling(i, k);
  }

  /// E H.
  Doubles gradient(const Doubles& q) const {
    Doubles g(kRows, kColumns);
    for (Index i = 0; i < kRows; ++i)
      for (Index j = 0; j < kColumns; ++j)
        for (Index k = 0; k < kColumns; ++k)
          g(i, k) += (double{problem.w(i, j)} - q(i, j)) * h(j, k);
    return g;
  }

  double operator()(const Doubles& q) const {
    const Doubles g = gradient(q);
    double total = 0;
    for (Index i = 0; i < kRows; ++i)
      for (Index k = 0; k < kRows; ++k)
        for (Index j = 0; j < kColumns && b(i, k) != 0; ++j)
          total += b(i, k) * (double{problem.w(i, j)} - q(i, j)) * g(k, j);
    return total;
  }

  /// Sweeps of coordinate descent over the codes while scales stay: column by column, in it row by
  /// row.
  template <class Round>
  void sweep(Doubles& q, int sweeps, const Round& round) const {
    Doubles g = gradient(q);
    for (int n = 0; n < sweeps; ++n)
      for (Index j = 0; j < kColumns; ++j)
        for (Index i = 0; i < kRows; ++i) {
          double slope = 0;
          for (Index k = 0; k < kRows; ++k) slope += b(i, k) * g(k, j);
          const double next = round(i, j, q(i, j) + slope / (b(i, i) * h(j, j)));
          const double step = next - q(i, j);
          q(i, j) = next;
          for (Index k = 0; k < kColumns && step != 0; ++k) g(i, k) -= step * h(j, k);
        }
  }
};

SolveTask solved(const Solver& solver, const Problem& problem, const Scheme& scheme,
                 const Factor& factor, const GptqSettings& settings, bool coupled = true) {
  SolveTask task{.weight = problem.w.view(), .scheme = scheme, .factor = &factor};
  if (coupled) task.output_factor = problem.sum.view();
  if (scheme.group_size == kPerTensor)
    task.tensor_grid = fit_tensor_grid(scheme, problem.w.view(), settings.scale_search);
  if (scheme.is_nvfp4()) task.global_scale = 1024;
  solver.solve({&task, 1}, settings);
  return task;
}

TEST(OutputFactor, BlocksAreNormalised) {
  const Problem problem;
  const Matrix sum = output_sum(problem.g);
  std::vector<float> block(kRowTile * kRowTile);
  output_block(sum.view().slice_rows(64, 36), kTokens, block.data());
  for (Index r = 0; r < kRowTile; ++r)
    for (Index c = 0; c < kRowTile; ++c) {
      const double outside = r == c ? 1 : 0;
      const double expected = r < 36 && c < 36 ? problem.coupling(64 + r, 64 + c) : outside;
      EXPECT_NEAR(block[r * kRowTile + c], expected, 1e-4) << r << ", " << c;
    }
  for (const float value : {0.0F, std::numeric_limits<float>::infinity()}) {
    const Matrix nothing = [&] {
      Matrix all(kRowTile, kRowTile);
      std::ranges::fill(all.values, value);
      return all;
    }();
    output_block(nothing.view(), kTokens, block.data());
    for (Index r = 0; r < kRowTile; ++r)
      for (Index c = 0; c < kRowTile; ++c) EXPECT_EQ(block[r * kRowTile + c], r == c ? 1 : 0);
  }
}

/// In every format, from what the sweeps without it leave; the errors of rows stay those of rows.
TEST(OutputFactor, ASweepLowersTheObjectiveInEveryFormat) {
  const Problem problem;
  for (const Solver* solver : kSolvers)
    for (const std::string_view name : format_names()) {
      SCOPED_TRACE(solver->name() + " " + std::string(name));
      const Scheme scheme = *scheme_from_format(name);
      GptqSettings settings;
      settings.refine = 1;  // and one under the factor
      const Factor factor = problem.factor(*solver, settings);
      const Objective objective(problem, factor.damping);
      const double before =
          objective(values_of(solved(*solver, problem, scheme, factor, settings, false).result));
      const SolveTask task = solved(*solver, problem, scheme, factor, settings);
      const Doubles values = values_of(task.result);
      EXPECT_LT(objective(values), before);
      double error = 0, expected = 0;
      for (Index r = 0; r < kRows; ++r) {
        error += task.error[static_cast<std::size_t>(r)];
        expected += row_objective(problem.w, values, objective.h, r);
      }
      EXPECT_NEAR(error, expected, 0.01 * expected);
    }
}

TEST(OutputFactor, MoreSweepsAreNeverWorse) {
  const Problem problem;
  Scheme scheme;
  scheme.bits = 2;
  scheme.group_size = 32;
  for (const Solver* solver : kSolvers) {
    double last = std::numeric_limits<double>::infinity();
    for (const int sweeps : {1, 2, 3, 8}) {
      GptqSettings settings;
      settings.refine = sweeps;
      const Factor factor = problem.factor(*solver, settings);
      const Objective objective(problem, factor.damping);
      const double now =
          objective(values_of(solved(*solver, problem, scheme, factor, settings).result));
      EXPECT_LT(now, last) << solver->name() << ", " << sweeps;
      last = now;
    }
  }
}

/// MX formats have no refit: codes of a slow descent in doubles.
TEST(OutputFactor, CodesAreThoseOfCoordinateDescent) {
  const Problem problem;
  const Scheme scheme = *scheme_from_format("mxfp4");
  for (const Solver* solver : kSolvers) {
    GptqSettings settings;
    settings.refine = 2;
    const Factor factor = problem.factor(*solver, settings);
    const Objective objective(problem, factor.damping);
    const SolveTask start = solved(*solver, problem, scheme, factor, settings, false);
    const SolveTask task = solved(*solver, problem, scheme, factor, settings);
    EXPECT_EQ(start.result.scales, task.result.scales);
    Doubles q = values_of(start.result);
    const Index groups = group_count(scheme, kColumns);
    objective.sweep(q, settings.refine, [&](Index i, Index j, double value) {
      const double scale = task.result.scales[i * groups + j / scheme.group_size];
      double nearest = 0;
      for (const double size : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0})
        for (const double level : {size, -size})
          if (std::abs(value / scale - level) < std::abs(value / scale - nearest)) nearest = level;
      return nearest * scale;
    });
    const Doubles values = values_of(task.result);
    std::size_t equal = 0;
    for (std::size_t i = 0; i < values.values.size(); ++i)
      if (std::abs(values.values[i] - q.values[i]) < 1e-6) ++equal;
    EXPECT_GT(static_cast<double>(equal), 0.98 * static_cast<double>(values.values.size()));
    EXPECT_NEAR(objective(values), objective(q), 1e-3 * objective(q));
  }
}

TEST(OutputFactor, SlicesAndThreadsDoNotChangeBits) {
  const Problem problem;
  for (const Solver* solver : kSolvers)
    for (const Scheme& scheme : {Scheme{}, Scheme{.group_size = kPerChannel}}) {
      const GptqSettings settings;
      const Factor factor = problem.factor(*solver, settings);
      const SolveTask whole = solved(*solver, problem, scheme, factor, settings);
      const SolveTask slices = solved_in_slices(*solver, whole, {64, 36}, settings);
      EXPECT_EQ(slices.result, whole.result);
      EXPECT_EQ(slices.error, whole.error);
    }
}

/// Groups that are narrow, odd, wider than a block of a device, the row, the matrix.
TEST(OutputFactor, SolversAgree) {
  const Problem problem;
  const GptqSettings settings;
  const Factor host = problem.factor(cpu_solver(), settings);
  const Factor device = problem.factor(device_solver(), settings);
  const Objective objective(problem, host.damping);
  for (const Index group : {Index{5}, Index{48}, Index{100}, Index{130}, kPerChannel, kPerTensor})
    for (const bool symmetric : {true, false}) {
      const Scheme scheme{.bits = 3, .symmetric = symmetric, .group_size = group};
      SCOPED_TRACE(to_string(scheme));
      const SolveTask expected = solved(cpu_solver(), problem, scheme, host, settings);
      const SolveTask found = solved(device_solver(), problem, scheme, device, settings);
      EXPECT_NEAR(objective(values_of(found.result)) / objective(values_of(expected.result)), 1,
                  5e-3);
      EXPECT_GT(share_equal(codes_of(found.result), codes_of(expected.result)), 0.98);
    }
}

TEST(OutputFactor, TasksOfDifferentKindsAtOnce) {
  const Problem problem;
  Problem other;
  other.set_gradients(make_inputs(kTokens, kRows, 9));
  for (const Solver* solver : kSolvers) {
    const GptqSettings settings;
    const Factor factor = problem.factor(*solver, settings);
    const Factor another = other.factor(*solver, settings);
    const SolveTask plain{.weight = problem.w.view(), .factor = &factor};
    std::vector<SolveTask> tasks(4, plain);
    tasks[1].output_factor = problem.sum.view();
    tasks[3].output_factor = other.sum.view();
    tasks[3].factor = &another;
    solver->solve(tasks, settings);
    for (const SolveTask& task : tasks) {
      SolveTask alone{
          .weight = task.weight, .factor = task.factor, .output_factor = task.output_factor};
      solver->solve({&alone, 1}, settings);
      EXPECT_EQ(task.result, alone.result);
      EXPECT_EQ(task.error, alone.error);
    }
    EXPECT_NE(tasks[1].result, tasks[0].result);
    EXPECT_NE(tasks[1].result, tasks[3].result);
  }
}

/// Static act-order and the search by the Hessian: sweeps work on columns as they are stored.
TEST(OutputFactor, OtherSettingsLowerTheObjectiveToo) {
  const Problem problem;
  for (const Solver* solver : kSolvers)
    for (const bool ordered : {false, true}) {
      GptqSettings settings;
      if (ordered) settings.act_order = ActOrder::fixed;
      settings.scale_search = ScaleSearch::hessian;
      const Scheme scheme{.bits = 3, .group_size = 40};
      const Factor factor = problem.factor(*solver, settings);
      const Objective objective(problem, factor.damping);
      const SolveTask by_row = solved(*solver, problem, scheme, factor, settings, false);
      const SolveTask together = solved(*solver, problem, scheme, factor, settings);
      EXPECT_LT(objective(values_of(together.result)), objective(values_of(by_row.result)));
    }
}

/// Of too few tokens there are no sweeps of either kind.
TEST(OutputFactor, IsNotUsedWithoutRefinement) {
  const Problem problem;
  for (const Solver* solver : kSolvers) {
    const GptqSettings settings;
    const Factor factor = problem.factor(*solver, settings);
    std::vector<QuantizedMatrix> results;
    for (const bool coupled : {false, true}) {
      SolveTask task{.weight = problem.w.view(), .refine = false, .factor = &factor};
      if (coupled) task.output_factor = problem.sum.view();
      solver->solve({&task, 1}, settings);
      results.push_back(task.result);
    }
    EXPECT_EQ(results[0], results[1]);
  }
}

/// A row whose errors overflow rounds its tile; the other tile is what it is without that row.
TEST(OutputFactor, TilesThatOverflowAreRounded) {
  const Problem problem;
  Problem broken;
  broken.w(3, 7) = 1e30F;
  for (const Solver* solver : kSolvers) {
    const GptqSettings settings;
    const Factor factor = problem.factor(*solver, settings);
    const SolveTask expected = solved(*solver, problem, Scheme{}, factor, settings);
    const SolveTask task = solved(*solver, broken, Scheme{}, factor, settings);
    EXPECT_TRUE(std::isinf(task.error[0]) && std::isinf(task.error[63]));
    EXPECT_EQ(slice_rows(task.result, 64, 36), slice_rows(expected.result, 64, 36));
    SolveTask rounded{.weight = broken.w.view()};
    solver->solve({&rounded, 1}, settings);
    EXPECT_EQ(slice_rows(task.result, 0, 64), slice_rows(rounded.result, 0, 64));
  }
}

/// Rows that do not depend on each other are solved as without a factor, and swept more often.
TEST(OutputFactor, OfTheIdentityAddsSweeps) {
  Problem problem;
  problem.set_gradients(Matrix(kTokens, kRows));
  for (const Solver* solver : kSolvers) {
    GptqSettings settings;
    settings.refine = 2;
    const Factor factor = problem.factor(*solver, settings);
    const SolveTask coupled = solved(*solver, problem, Scheme{}, factor, settings);
    settings.refine = 4;
    const SolveTask more = solved(*solver, problem, Scheme{}, factor, settings, false);
    EXPECT_GT(share_equal(codes_of(coupled.result), codes_of(more.result)), 0.999)
        << solver->name();
  }
}

}  // namespace
}  // namespace aq::test
