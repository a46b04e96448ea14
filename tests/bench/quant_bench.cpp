/// Speed of the solver: Hessian sums, factors, GPTQ, refinement and scale search in every format.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "aq/core/parallel.h"
#include "aq/plan/cost.h"
#include "aq/quant/hessian.h"
#include "aq/quant/solver.h"
#include "bench/bench.h"
#include "quant/cpu/factor.h"
#include "unit/quant/reference.h"

namespace aq::bench {
namespace {

using namespace aq::test;

constexpr double kWrong = std::numeric_limits<double>::infinity();

double real(Index value) {
  return static_cast<double>(value);
}

/// The input of a linear, and everything that slow code makes of it.
struct Layer {
  Index columns;
  WeightedSum sum;
  Doubles damped, inverse_factor;
  Factor plain, refining;  ///< without and with what the sweeps read

  explicit Layer(Index n)
      : columns(n),
        sum(sum_of(make_inputs(2 * n, n, 1))),
        damped(0, 0),
        inverse_factor(0, 0),
        plain(factorize(sum, n, plain_gptq())),
        refining(factorize(sum, n, {.few_tokens_damping = 0})) {
    Doubles h(n, n);
    std::ranges::copy(hessian_natural(sum, n).values, h.values.begin());
    damped = naive_damped(h, sum.weight_sum, GptqSettings{}.damping);
    inverse_factor = naive_inverse_factor(damped);
  }
};

/// Made by the first measurement that needs it, and kept: the slow code takes seconds.
const Layer& layer(Index columns) {
  static std::map<Index, Layer> known;
  return known.try_emplace(columns, columns).first->second;
}

// ---- Hessian sums

/// The largest difference of sampled elements from their sums in double, relative to the sum of
/// magnitudes.
double hessian_error(const WeightedSum& sum, const Matrix& x, std::span<const std::int32_t> rows,
                     std::span<const float> weights) {
  const Matrix natural = hessian_natural(sum, x.columns);
  double worst = 0;
  for (Index r = 0; r < x.columns; r += 211)
    for (Index c = 0; c < x.columns; c += 97) {
      double expected = 0, size = 0;
      for (std::size_t t = 0; t < rows.size(); ++t) {
        const double product = double{weights[t]} * x(rows[t], r) * x(rows[t], c);
        expected += product;
        size += std::fabs(product);
      }
      worst = std::max(worst, std::fabs(natural(r, c) - expected) / size);
    }
  return worst;
}

/// Sums of `count` experts side by side, each of other `tokens` rows of one input; one: of them
/// all.
Trial hessian_trial(Index count, Index tokens, Index columns) {
  struct State {
    Matrix x;
    std::vector<std::vector<std::int32_t>> rows;
    std::vector<float> weights;
    std::vector<WeightedSum> sums;
  };
  const auto s = std::make_shared<State>();
  s->x = make_inputs(count == 1 ? tokens : 2 * tokens, columns, 3);
  s->sums.resize(count);
  for (Index e = 0; e < count; ++e) {
    std::vector<std::int32_t>& rows = s->rows.emplace_back(s->x.rows);
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), std::mt19937(static_cast<unsigned>(e)));
    rows.resize(tokens);
  }
  for (Index t = 0; t < tokens; ++t) s->weights.push_back(0.1F + static_cast<float>(t % 7) / 8);
  const auto add = [s](Index e) {
    default_solver().add_tokens(s->sums[e], s->x.view(), s->rows[e], s->weights, 1);
  };
  return {.work = real(tokens * columns) * real(columns + 1),
          .count = count,
          .reset = [s] { std::ranges::fill(s->sums, WeightedSum{}); },
          .body =
              [add, count] {
                if (count == 1) return add(0);  // by all threads
                parallel_for(count, add);
              },
          .error =
              [s] {
                return std::max(hessian_error(s->sums.front(), s->x, s->rows.front(), s->weights),
                                hessian_error(s->sums.back(), s->x, s->rows.back(), s->weights));
              },
          .allowed = 1e-5};
}

// ---- Factors

Trial factor_trial(Index count, Index columns) {
  const auto tasks = std::make_shared<std::vector<FactorTask>>(count);
  const auto error = [tasks, columns] {
    const Doubles expected = naive_upper(layer(columns).damped);
    double worst = 0;
    for (const FactorTask* task : {&tasks->front(), &tasks->back()}) {
      if (!task->factor.usable()) return kWrong;
      const Matrix upper = factor_upper(task->factor);
      for (Index r = 0; r < columns; ++r)
        for (Index c = 0; c < columns; ++c)
          worst = std::max(worst, std::fabs(upper(r, c) - expected(r, c)) / expected(c, c));
    }
    return worst;
  };
  return {.work = real(columns) * real(columns) * real(columns) / 3,
          .count = count,
          .reset =
              [tasks, columns] {
                for (FactorTask& task : *tasks) task = {layer(columns).sum, columns};
              },
          .body = [tasks] { default_solver().factorize(*tasks, plain_gptq()); },
          .error = error,
          .allowed = 1e-3};
}

// ---- Solutions

/// A matrix to be solved and its task.
struct Problem {
  Matrix weight;
  SolveTask task;
};

std::shared_ptr<Problem> make_problem(Index rows, Index columns, const Scheme& scheme) {
  const auto problem = std::make_shared<Problem>();
  problem->weight = make_weights(rows, columns, 2);
  problem->task = {
      .weight = problem->weight.view(),
      .scheme = scheme,
      .global_scale = fit_global_scale(scheme, largest_magnitude(problem->weight.values))};
  return problem;
}

std::function<void()> solving(const std::shared_ptr<Problem>& problem, const Factor* factor,
                              ScaleRule rule, const GptqSettings& settings) {
  return [=] {
    problem->task.factor = factor;
    problem->task.scale_rule = rule;
    default_solver().solve({&problem->task, 1}, settings);
  };
}

/// Rows that are compared, of tiles of all threads.
constexpr Index kSample = 4;
Index sampled_row(const Matrix& weight, Index i) {
  return i * (weight.rows - 1) / (kSample - 1);
}
Matrix sampled(const Matrix& weight) {
  Matrix rows(kSample, weight.columns);
  for (Index i = 0; i < kSample; ++i)
    std::ranges::copy(weight.view().row(sampled_row(weight, i)), rows.view().row(i).begin());
  return rows;
}

/// Share of the codes that differ from those of GPTQ as in the paper.
double code_error(const Problem& p) {
  const std::vector<std::uint8_t> codes = codes_of(p.task.result);
  const NaiveResult expected = naive_gptq(sampled(p.weight), layer(p.weight.columns).inverse_factor,
                                          p.task.scheme, p.task.global_scale);
  Index wrong = 0;
  for (Index i = 0; i < kSample; ++i)
    for (Index c = 0; c < p.weight.columns; ++c)
      wrong += codes[sampled_row(p.weight, i) * p.weight.columns + c] !=
               expected.codes[i * p.weight.columns + c];
  return real(wrong) / real(kSample * p.weight.columns);
}

Trial solve_trial(Index rows, Index columns, const Scheme& scheme) {
  const auto problem = make_problem(rows, columns, scheme);
  return {.work = real(rows * columns) * real(columns),
          .body = solving(problem, &layer(columns).plain, ScaleRule::ocp, plain_gptq()),
          .error = [problem] { return code_error(*problem); },
          .allowed = 0.01};
}

/// How far the errors that the solver reports are from E H Eᵀ; wrong where those of the rows are
/// not less than the ones of GPTQ as in the paper.
double refined_error(const Problem& p) {
  const Layer& l = layer(p.weight.columns);
  const Doubles values = values_of(p.task.result);
  const Matrix rows = sampled(p.weight);
  const NaiveResult plain = naive_gptq(rows, l.inverse_factor, p.task.scheme, p.task.global_scale);
  double worst = 0, refined_total = 0, plain_total = 0;
  for (Index i = 0; i < kSample; ++i) {
    const Index row = sampled_row(p.weight, i);
    const double objective = row_objective(p.weight, values, l.damped, row);
    worst = std::max(worst, std::fabs(p.task.error[row] / objective - 1));
    refined_total += objective;
    plain_total += row_objective(rows, plain.values, l.damped, i);
  }
  return refined_total < plain_total ? worst : kWrong;
}

/// Refinement alone: the defaults less the defaults without. Operations are those that a plan
/// counts; how many there are, the data decides.
Trial refine_trial(Index rows, Index columns, const Scheme& scheme) {
  const auto problem = make_problem(rows, columns, scheme);
  const GptqSettings with;
  GptqSettings without;
  without.refine = 0;
  const Layer& l = layer(columns);
  return {.work = real(rows) * refine_flops(real(columns), with.refine),
          .body = solving(problem, &l.refining, ScaleRule::best, with),
          .without = solving(problem, &l.plain, ScaleRule::best, without),
          .error = [problem] { return refined_error(*problem); },
          .allowed = 1e-2};
}

// ---- Scales

/// Scales that the search tries for a group (docs/design.md), each with the shrunk range's grid.
std::vector<Grid> candidates(const Scheme& scheme, std::span<const float> group, float global) {
  const auto [low, high] = std::ranges::minmax_element(group);
  const auto fitted = [&, min = std::min(*low, 0.0F), max = std::max(*high, 0.0F)](float shrink) {
    return fit_grid(scheme, min * shrink, max * shrink, ScaleRule::ocp, global);
  };
  std::vector<Grid> grids;
  if (scheme.is_mx()) {
    for (const float power : {1.0F, 2.0F, 0.5F}) (grids.emplace_back(fitted(1))).scale *= power;
    return grids;
  }
  for (int k = 0; k < 24; ++k) {
    grids.push_back(fitted(1 - 0.03F * static_cast<float>(k)));
    if (scheme.is_float() || !scheme.symmetric) continue;
    grids.push_back(grids.back());
    grids.back().scale *= -1;
  }
  return grids;
}

double rounding_error(const Scheme& scheme, const Grid& grid, std::span<const float> group) {
  double error = 0;
  for (const float value : group)
    error += std::pow(double{value} - decode(scheme, grid, encode(scheme, grid, value)), 2);
  return error;
}

/// By how much the squared error of a group differs from that of the best candidate.
double search_error(const Problem& p) {
  const Scheme& scheme = p.task.scheme;
  const Index width = group_width(scheme, p.weight.columns);
  double worst = 0;
  for (Index i = 0; i < kSample; ++i) {
    const Index row = sampled_row(p.weight, i);
    for (Index begin = 0; begin < p.weight.columns; begin += width) {
      const auto group = p.weight.view().row(row).subspan(begin, width);
      double best = kWrong;
      for (const Grid& grid : candidates(scheme, group, p.task.global_scale))
        best = std::min(best, rounding_error(scheme, grid, group));
      const double found =
          rounding_error(scheme, grid_at(p.task.result, row, begin / width), group);
      worst = std::max(worst, std::fabs(found / best - 1));
    }
  }
  return worst;
}

/// Scale search alone: rounding with it less rounding without. Operations are those on a value for
/// one candidate: multiply, two bounds, two additions that round, and two multiply-adds.
Trial search_trial(Index rows, Index columns, const Scheme& scheme) {
  constexpr double kOperations = 9;
  const auto problem = make_problem(rows, columns, scheme);
  GptqSettings absmax;
  absmax.scale_search = ScaleSearch::absmax;
  const auto tried = candidates(scheme, problem->weight.view().row(0).first(16), 1).size();
  return {.work = kOperations * static_cast<double>(tried) * real(rows * columns),
          .body = solving(problem, nullptr, ScaleRule::best, GptqSettings{}),
          .without = solving(problem, nullptr, ScaleRule::ocp, absmax),
          .error = [problem] { return search_error(*problem); },
          .allowed = 1e-4};
}

/// Rounding with the scale of the largest magnitude: the weights are read once.
Trial round_trial(Index rows, Index columns, const Scheme& scheme) {
  const auto problem = make_problem(rows, columns, scheme);
  GptqSettings absmax;
  absmax.scale_search = ScaleSearch::absmax;
  const auto error = [problem] {
    const SolveTask& task = problem->task;
    const std::vector<std::uint8_t> codes = codes_of(task.result);
    const Index width = group_width(task.scheme, task.weight.columns);
    Index wrong = 0;
    for (Index r = 0; r < task.weight.rows; ++r)
      for (Index c = 0; c < task.weight.columns; ++c)
        wrong += codes[r * task.weight.columns + c] !=
                 encode(task.scheme, grid_at(task.result, r, c / width), task.weight(r, c));
    return real(wrong);
  };
  return {.work = real(rows * columns) * sizeof(float),
          .bound = Bound::memory,
          .body = solving(problem, nullptr, ScaleRule::ocp, absmax),
          .error = error};
}

/// The shapes of OLMoE-1B-7B: inputs of attention and experts, and an expert's matrices.
std::vector<Case> cases(const Options& options) {
  const Index scale = options.small ? 8 : 1;
  const Index n = 2048 / scale, rows = 1024 / scale, tokens = 4096 / scale, experts = 8;
  std::vector<Case> all = {
      {str("hessian [", tokens, ", ", n, "]"), [=] { return hessian_trial(1, tokens, n); }},
      {str("hessian ", experts, " x [", tokens / 8, ", ", n, "]"),
       [=] { return hessian_trial(experts, tokens / 8, n); }},
      {str("factor [", n, "]"), [=] { return factor_trial(1, n); }},
      {str("factor ", experts, " x [", n, "]"), [=] { return factor_trial(experts, n); }},
      {str("factor ", experts, " x [", rows, "]"), [=] { return factor_trial(experts, rows); }}};
  const auto add = [&](std::string_view what, const auto& trial, Index r, Index c,
                       std::string_view format) {
    all.push_back({str(what, " [", r, ", ", c, "] ", format),
                   [=] { return trial(r, c, *scheme_from_format(format)); }});
  };
  add("solve", solve_trial, n, rows, "int4");
  for (const std::string_view format : format_names()) add("solve", solve_trial, rows, n, format);
  for (const std::string_view format : format_names()) add("refine", refine_trial, rows, n, format);
  for (const std::string_view format : format_names()) add("search", search_trial, rows, n, format);
  add("round", round_trial, rows, n, "int4");
  return all;
}

}  // namespace
}  // namespace aq::bench

int main(int argc, char** argv) {
  return aq::bench::run_alone(argc, argv,
                              {.about = "Speed of the solver, beside the peaks of this machine",
                               .cases = aq::bench::cases});
}
