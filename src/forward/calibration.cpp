#include "aq/forward/calibration.h"

#include <cmath>

#include "aq/core/parallel.h"
#include "aq/quant/hessian.h"

namespace aq {
namespace {

/// Σ over the sequences of one lane.
WeightedSum lane_sum(const Batch& batch, Index lane, Index columns, const RowSource& source) {
  WeightedSum sum;
  const Range sequences = batch.lane_sequences[static_cast<std::size_t>(lane)];
  Matrix scratch;
  for (Index sequence = sequences.begin; sequence < sequences.end; ++sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    Matrix reversed(rows.size(), columns);
    gather_scaled_reversed(source(rows, scratch), {}, {}, reversed.view());
    accumulate_hessian(sum, reversed.view(), static_cast<double>(rows.size()), true);
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

LanePartials sum_all_tokens(const Batch& batch, Index columns, const RowSource& source) {
  return sum_lanes(batch, [&](Index lane) { return lane_sum(batch, lane, columns, source); });
}

LanePartials sum_routed_tokens(const Batch& batch, const TokenList& list, double exponent,
                               Index columns, const std::function<LaneRows(Index)>& lane_input) {
  return sum_lanes(batch, [&](Index lane) {
    WeightedSum sum;
    const Index tokens = list.lane(lane).size();
    if (tokens == 0) return sum;
    const LaneRows input = lane_input(lane);
    double weight_sum = 0;
    const std::vector<float> weights = powers(list.weights_of_lane(lane), exponent, weight_sum);
    Matrix reversed(tokens, columns);
    gather_scaled_reversed(input.matrix, input.rows, weights, reversed.view());
    accumulate_hessian(sum, reversed.view(), weight_sum, true);
    return sum;
  });
}

}  // namespace aq
