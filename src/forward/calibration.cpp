#include "aq/forward/calibration.h"

#include <cmath>

#include "aq/core/parallel.h"

namespace aq {
namespace {

/// Σ over the sequences of one lane.
WeightedSum lane_sum(const Solver& solver, const Batch& batch, Index lane,
                     const RowSource& source) {
  WeightedSum sum;
  const Range sequences = batch.lane_sequences[static_cast<std::size_t>(lane)];
  Matrix scratch;
  for (Index sequence = sequences.begin; sequence < sequences.end; ++sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    solver.add_tokens(sum, source(rows, scratch), {}, {}, static_cast<double>(rows.size()));
  }
  return sum;
}

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

/// The tree of the lanes' sums; threads take lanes. Inside a parallel_for one lane after the other.
template <class LaneSum>
LanePartials sum_lanes(const Batch& batch, const LaneSum& lane_sum_of) {
  TreeSum tree;
  const Index step = in_parallel_for() ? 1 : thread_count();
  for (Index first = 0; first < batch.lanes(); first += step) {
    const Index count = std::min(step, batch.lanes() - first);
    std::vector<WeightedSum> sums(static_cast<std::size_t>(count));
    parallel_for(count,
                 [&](Index i) { sums[static_cast<std::size_t>(i)] = lane_sum_of(first + i); });
    for (Index i = 0; i < count; ++i)
      tree.add_lane(batch.first_lane + first + i, std::move(sums[static_cast<std::size_t>(i)]));
  }
  return tree.take();
}

}  // namespace

LanePartials sum_all_tokens(const Solver& solver, const Batch& batch, const RowSource& source) {
  return sum_lanes(batch, [&](Index lane) { return lane_sum(solver, batch, lane, source); });
}

LanePartials sum_routed_tokens(const Solver& solver, const Batch& batch, const TokenList& list,
                               double exponent, const std::function<LaneRows(Index)>& lane_input) {
  return sum_lanes(batch, [&](Index lane) {
    WeightedSum sum;
    if (list.lane(lane).size() == 0) return sum;
    const LaneRows input = lane_input(lane);
    double weight_sum = 0;
    const std::vector<float> weights = powers(list.weights_of_lane(lane), exponent, weight_sum);
    solver.add_tokens(sum, input.matrix, input.rows, weights, weight_sum);
    return sum;
  });
}

}  // namespace aq
