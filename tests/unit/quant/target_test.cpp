/// Cross sums and the targets that come of them, of every solver, beside doubles.

#include "quant/target.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/cpu/solver.h"
#include "quant/cuda/solver.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

constexpr Index kTokens = 300, kColumns = 136, kRows = 200;
constexpr double kDamping = 0.01 + 136.0 / 300;  ///< of the default settings

const Solver* const kSolvers[] = {&cpu_solver(), &emulated_solver()};

/// What tokens lack: something of their inputs, and noise.
Matrix make_lack(const Matrix& x, Index columns, unsigned seed) {
  Matrix d = make_inputs(x.rows, columns, seed);
  for (Index t = 0; t < d.rows; ++t)
    for (Index c = 0; c < columns; ++c) d(t, c) = 0.05F * d(t, c) + 0.1F * x(t, c % x.columns);
  return d;
}

/// Σ weight_t d_t x_tᵀ.
Doubles naive_cross(const Matrix& d, const Matrix& x, const std::vector<float>& weights) {
  Doubles sum(d.columns, x.columns);
  for (Index t = 0; t < x.rows; ++t)
    for (Index i = 0; i < d.columns; ++i)
      for (Index j = 0; j < x.columns; ++j)
        sum(i, j) += static_cast<double>(weights[static_cast<std::size_t>(t)]) * d(t, i) * x(t, j);
  return sum;
}

Doubles product(const Doubles& a, const Doubles& b) {
  Doubles c(a.rows, b.columns);
  for (Index i = 0; i < a.rows; ++i)
    for (Index k = 0; k < a.columns; ++k)
      for (Index j = 0; j < b.columns; ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}

Doubles doubles_of(const Matrix& matrix) {
  Doubles all(matrix.rows, matrix.columns);
  std::ranges::copy(matrix.values, all.values.begin());
  return all;
}

double largest(const Doubles& a) {
  double most = 0;
  for (const double value : a.values) most = std::max(most, std::abs(value));
  return most;
}

/// A matrix, its tokens and what these lack.
struct Problem {
  CrossSum of;
  Matrix x = make_inputs(kTokens, kColumns, 3), w = make_weights(kRows, kColumns, 5), d;
  std::vector<float> weights = token_weights(kTokens);
  double weight_sum = sum_of(x, weights).weight_sum;

  explicit Problem(CrossSum cross)
      : of(cross), d(make_lack(x, cross == CrossSum::inputs ? kColumns : kRows, 9)) {}

  WeightedSum cross(const Solver& solver) const {
    WeightedSum sum;
    solver.add_cross(sum, d.view(), x.view(), {}, weights, weight_sum);
    return sum;
  }

  Factor factor(const Solver& solver, const GptqSettings& settings) const {
    FactorTask task{
        .sum = sum_of(x, weights), .columns = kColumns, .cross = cross(solver), .cross_of = of};
    solver.factorize({&task, 1}, settings);
    EXPECT_TRUE(task.sum.values.empty() && task.cross.values.empty()) << "they are consumed";
    return task.factor;
  }

  /// W + R Hλ⁻¹ by an inverse.
  Matrix target(double damping) const {
    const Doubles root =
        naive_inverse_factor(naive_damped(naive_hessian(x, weights), weight_sum, damping));
    Doubles sum = naive_cross(d, x, weights);
    for (double& value : sum.values) value /= weight_sum;
    if (of == CrossSum::inputs) sum = product(doubles_of(w), sum);
    Doubles transposed(root.columns, root.rows);
    for (Index i = 0; i < root.rows; ++i)
      for (Index j = 0; j < root.columns; ++j) transposed(j, i) = root(i, j);
    const Doubles shift = product(product(sum, transposed), root);
    Matrix target = w;
    for (std::size_t i = 0; i < shift.values.size(); ++i)
      target.values[i] += static_cast<float>(shift.values[i]);
    return target;
  }
};

SolveTask solved(const Solver& solver, const Matrix& w, const Scheme& scheme, const Factor& factor,
                 const GptqSettings& settings) {
  SolveTask task{.weight = w.view(), .scheme = scheme, .factor = &factor};
  if (scheme.group_size == kPerTensor)
    task.tensor_grid = fit_tensor_grid(scheme, w.view(), settings.scale_search);
  if (scheme.is_nvfp4()) task.global_scale = 1024;
  solver.solve({&task, 1}, settings);
  return task;
}

TEST(Target, CrossSumsAgreeWithDoubles) {
  const Matrix x = make_inputs(kTokens, 70, 3);
  const Matrix d = make_lack(x, 301, 4);
  std::vector<float> weights(kTokens, 0.0F);
  std::vector<std::int32_t> rows;
  std::vector<float> some;
  for (std::int32_t t = 1; t < kTokens; t += 3) {
    rows.push_back(t);
    some.push_back(token_weights(kTokens)[static_cast<std::size_t>(t)]);
    weights[static_cast<std::size_t>(t)] = some.back();
  }
  const Doubles expected = naive_cross(d, x, weights);
  for (const Solver* solver : kSolvers) {
    WeightedSum sum;
    const std::span all(rows);
    const std::span factors(some);
    solver->add_cross(sum, d.view(), x.view(), all.first(40), factors.first(40), 1.5);
    solver->add_cross(sum, d.view(), x.view(), all.subspan(40), factors.subspan(40), 2);
    EXPECT_EQ(sum.tokens, std::ssize(rows));
    EXPECT_EQ(sum.weight_sum, 3.5);
    ASSERT_EQ(sum.values.size(), expected.values.size());
    for (std::size_t i = 0; i < sum.values.size(); ++i)
      EXPECT_NEAR(sum.values[i], expected.values[i], 2e-5 * largest(expected)) << solver->name();
  }
}

TEST(Target, IsTheLeastSquaresSolution) {
  for (const CrossSum of : {CrossSum::inputs, CrossSum::outputs})
    for (const ActOrder order : {ActOrder::none, ActOrder::fixed}) {
      const Problem problem(of);
      GptqSettings settings;
      settings.act_order = order;
      const Matrix expected = problem.target(kDamping);
      for (const Solver* solver : kSolvers) {
        const Factor factor = problem.factor(*solver, settings);
        ASSERT_TRUE(factor.usable());
        const SolveTask task = solved(*solver, problem.w, Scheme{}, factor, settings);
        ASSERT_EQ(task.target.rows, kRows);
        double moved = 0, off = 0;
        for (std::size_t i = 0; i < expected.values.size(); ++i) {
          moved = std::max(moved, std::abs(double{expected.values[i]} - problem.w.values[i]));
          off = std::max(off, std::abs(double{expected.values[i]} - task.target.values[i]));
        }
        EXPECT_GT(moved, 0.005);
        EXPECT_LT(off, 1e-3 * moved) << solver->name();
      }
    }
}

/// What is quantized is the target: the same codes as of a matrix that holds it. Errors in H's norm
/// are beside the target, those of the weights beside the weights.
TEST(Target, IsWhatIsQuantizedInEveryFormat) {
  const Problem problem(CrossSum::outputs);
  const GptqSettings settings;
  const Matrix target = problem.target(kDamping);
  const Doubles damped =
      naive_damped(naive_hessian(problem.x, problem.weights), problem.weight_sum, kDamping);
  for (const Solver* solver : kSolvers) {
    const Factor factor = problem.factor(*solver, settings);
    Factor plain = factor;
    plain.cross_of = CrossSum::none;
    plain.lack = nullptr;
    for (const std::string_view name : format_names()) {
      SCOPED_TRACE(solver->name() + " " + std::string(name));
      const Scheme scheme = *scheme_from_format(name);
      const SolveTask task = solved(*solver, problem.w, scheme, factor, settings);
      const SolveTask same = solved(*solver, target, scheme, plain, settings);
      if (scheme.group_size != kPerTensor) {  // else their grids are fitted on other matrices
        EXPECT_GT(share_equal(codes_of(task.result), codes_of(same.result)), 0.98);
      }
      const Doubles values = values_of(task.result);
      double error = 0, expected = 0, weight_error = 0;
      for (Index r = 0; r < kRows; ++r) {
        error += task.error[static_cast<std::size_t>(r)];
        expected += row_objective(target, values, damped, r);
        weight_error += task.weight_error[static_cast<std::size_t>(r)];
      }
      EXPECT_NEAR(error, expected, 0.01 * expected) << "of the target";
      double beside = 0;
      for (Index r = 0; r < kRows; ++r)
        for (Index c = 0; c < kColumns; ++c)
          beside += std::pow(double{problem.w(r, c)} - values(r, c), 2);
      EXPECT_NEAR(weight_error, beside, 1e-5 * beside) << "of the weights";
    }
  }
}

TEST(Target, SlicesAndThreadsDoNotChangeBits) {
  for (const CrossSum of : {CrossSum::inputs, CrossSum::outputs})
    for (const Solver* solver : kSolvers) {
      const Problem problem(of);
      const GptqSettings settings;
      const Factor factor = problem.factor(*solver, settings);
      const SolveTask whole = solved(*solver, problem.w, Scheme{}, factor, settings);
      const SolveTask slices = solved_in_slices(*solver, whole, {64, 64, 72}, settings);
      EXPECT_EQ(slices.result, whole.result);
      EXPECT_EQ(slices.error, whole.error);
      EXPECT_EQ(slices.weight_error, whole.weight_error);
    }
}

TEST(Target, TravelsWithTheFactor) {
  for (const CrossSum of : {CrossSum::inputs, CrossSum::outputs})
    for (const Solver* solver : kSolvers) {
      const Problem problem(of);
      const GptqSettings settings;
      Factor factor = problem.factor(*solver, settings);
      Factor copy = solver->make_factor(solver->header_of(factor));
      const std::vector<Buffer> from = solver->arrays_of(factor), to = solver->arrays_of(copy);
      ASSERT_EQ(from.size(), to.size());
      for (std::size_t i = 0; i < from.size(); ++i) {
        ASSERT_EQ(from[i].bytes.size(), to[i].bytes.size());
        std::ranges::copy(from[i].bytes, to[i].bytes.begin());
      }
      EXPECT_EQ(solved(*solver, problem.w, Scheme{}, copy, settings).result,
                solved(*solver, problem.w, Scheme{}, factor, settings).result);
    }
}

/// Tokens that lack nothing change nothing.
TEST(Target, OfNoLackIsTheMatrix) {
  for (const Solver* solver : kSolvers) {
    Problem problem(CrossSum::inputs);
    std::ranges::fill(problem.d.values, 0.0F);
    const GptqSettings settings;
    const Factor factor = problem.factor(*solver, settings);
    Factor plain = factor;
    plain.cross_of = CrossSum::none;
    EXPECT_EQ(solved(*solver, problem.w, Scheme{}, factor, settings).result,
              solved(*solver, problem.w, Scheme{}, plain, settings).result);
  }
}

TEST(Target, ACrossSumThatOverflowedIsNotUsed) {
  for (const Solver* solver : kSolvers) {
    const Problem problem(CrossSum::outputs);
    FactorTask task{.sum = sum_of(problem.x, problem.weights),
                    .columns = kColumns,
                    .cross = problem.cross(*solver),
                    .cross_of = CrossSum::outputs};
    task.cross.values[7] = std::numeric_limits<float>::infinity();
    solver->factorize({&task, 1}, GptqSettings{});
    EXPECT_FALSE(task.factor.usable());
    EXPECT_EQ(task.factor.rtn_reason, RtnReason::lack_not_finite);
    const SolveTask rounded = solved(*solver, problem.w, Scheme{}, task.factor, GptqSettings{});
    EXPECT_EQ(rounded.target.rows, 0);
    EXPECT_TRUE(rounded.error.empty());
  }
}

}  // namespace
}  // namespace aq::test
