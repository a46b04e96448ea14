#include "aq/forward/calibration.h"

#include <cmath>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/quant/workspace.h"
#include "forward/expert_threads.h"

namespace aq {
namespace {

/// s^p of each score, and their sum.
std::vector<float> powers(std::span<const float> scores, double exponent, double& sum) {
  std::vector<float> weights;
  weights.reserve(scores.size());
  for (const float score : scores) {
    const double weight = std::pow(static_cast<double>(score), exponent);
    weights.push_back(static_cast<float>(weight));
    sum += static_cast<double>(weights.back());
  }
  return weights;
}

/// The tree of the lanes' sums; threads take lanes. Inside a parallel_for, and of wide sums, one
/// lane after the other.
template <class LaneSum>
LanePartials sum_lanes(const Batch& batch, Index columns, const LaneSum& lane_sum_of) {
  TreeSum tree;
  const Index step = in_parallel_for() || columns >= kWideSum ? 1 : thread_count();
  for (Index first = 0; first < batch.lanes(); first += step) {
    const Index count = std::min(step, batch.lanes() - first);
    std::vector<WeightedSum> sums(count);
    parallel_for(count, [&](Index i) { sums[i] = lane_sum_of(first + i); });
    for (Index i = 0; i < count; ++i)
      tree.add_lane(batch.first_lane + first + i, std::move(sums[i]));
  }
  return tree.take();
}

/// Every token with weight 1; `input(rows)` are the rows that are summed.
template <class Input>
LanePartials sum_all(const Solver& solver, const Batch& batch, Index columns, const Input& input) {
  return sum_lanes(batch, columns, [&](Index lane) {
    WeightedSum sum;
    for (const Range& rows : pieces_of(batch.rows_of_lane(lane))) {
      const Tensor x = input(rows);
      solver.add_tokens(sum, x.host(), {}, {}, static_cast<double>(rows.size()));
    }
    return sum;
  });
}

/// The same rows as float32.
Tensor as_floats(const Tensor& x, Range rows) {
  const Tensor window = x.window(rows);
  return x.kind() == runtime::TensorKind{} ? window.window() : window.as(DType::f32);
}

/// Every token of a tensor with weight 1.
LanePartials sum_rows(const Solver& solver, const Batch& batch, const Tensor& x) {
  return sum_all(solver, batch, x.columns(), [&](Range rows) { return as_floats(x, rows); });
}

/// The inputs of some tokens of an expert: rows `rows` of `x`, or all of them when empty.
struct PieceInput {
  const Tensor x;
  std::span<const std::int32_t> rows;
};

/// Σ s^p x xᵀ over one expert's tokens; `input(places)` of its list.
template <class Input>
LanePartials sum_routed(const ExpertSums& sums, const TokenList& list, Index columns,
                        const Input& input) {
  return sum_lanes(sums.pass.batch, columns, [&](Index lane) {
    WeightedSum sum;
    for (const Range& places : pieces_of(list.lane(lane))) {
      const PieceInput in = input(places);
      double weight_sum = 0;
      const std::vector<float> weights = powers(list.weights_at(places), sums.exponent, weight_sum);
      sums.solver.add_tokens(sum, in.x.host(), in.rows, weights, weight_sum);
    }
    return sum;
  });
}

/// Σ over activation(gate x, up x) of every token.
LanePartials sum_hidden_of_all(const ExpertSums& sums, const GateUp& weights) {
  return sum_all(sums.solver, sums.pass.batch, weights.gate.weight.rows(), [&](Range rows) {
    std::vector<std::int32_t> tokens(rows.size());
    std::iota(tokens.begin(), tokens.end(), checked_cast<std::int32_t>(rows.begin));
    return weights.hidden(sums.pass.normed, tokens);
  });
}

/// Places in `experts` of those that have tokens here, or are summed over those of all experts.
std::vector<Index> busy(const ExpertPass& pass, std::span<const CalibratedExpert> experts) {
  std::vector<Index> places;
  for (Index i = 0; i < std::ssize(experts); ++i) {
    const auto& [expert, summed] = experts[i];
    if (pass.tokens(expert).size() > 0 || summed == CalibratedOn::all) places.push_back(i);
  }
  return places;
}

}  // namespace

LanePartials sum_tokens(const Solver& solver, const Batch& batch, const LinearInput& input) {
  if (!input.norm) return sum_rows(solver, batch, input.x);
  return sum_all(solver, batch, input.x.columns(),
                 [&](Range rows) { return (*input.norm)(input.x.window(rows)); });
}

std::vector<LanePartials> ExpertSums::gate_up(std::span<const CalibratedExpert> experts) const {
  std::vector<LanePartials> sums(experts.size());
  for_each_expert(busy(pass, experts), [&](Index i) {
    const auto& [expert, summed] = experts[i];
    if (summed != CalibratedOn::routed) return;
    const TokenList& list = pass.tokens(expert);
    sums[i] = sum_routed(*this, list, pass.normed.columns(), [&](Range places) {
      return PieceInput{pass.normed.window(), list.rows_at(places)};
    });
  });
  // Experts that are calibrated on all tokens have the same sum: it is computed once.
  const LanePartials* first = nullptr;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    if (experts[i].tokens != CalibratedOn::all) continue;
    sums[i] = first != nullptr ? *first : sum_rows(solver, pass.batch, pass.normed);
    first = &sums[i];
  }
  return sums;
}

std::vector<LanePartials> ExpertSums::down(std::span<const CalibratedExpert> experts,
                                           ByExpert* hidden) const {
  std::vector<LanePartials> sums(experts.size());
  if (hidden != nullptr)
    for (const CalibratedExpert& each : experts)
      if (pass.tokens(each.expert).size() > 0) (*hidden)[each.expert];
  for_each_expert(busy(pass, experts), [&](Index i) {
    const auto& [expert, summed] = experts[i];
    const TokenList& list = pass.tokens(expert);
    const bool runs = hidden != nullptr || summed == CalibratedOn::routed;
    if (!(runs && list.size() > 0) && summed != CalibratedOn::all) return;
    const GateUp weights(pass.layer.mlp(expert), pass.weights);
    Tensor out;
    if (runs && list.size() > 0) out = weights.hidden(pass.normed, list);
    LanePartials& partials = sums[i];
    if (summed == CalibratedOn::routed)
      partials = sum_routed(*this, list, out.columns(), [&](Range places) {
        return PieceInput{as_floats(out, places), {}};
      });
    if (summed == CalibratedOn::all) partials = sum_hidden_of_all(*this, weights);
    if (hidden != nullptr && list.size() > 0) hidden->at(expert) = std::move(out);
  });
  return sums;
}

}  // namespace aq
