#pragma once
/// Routing-weighted Hessian sums of this rank's lanes (design: H = Σ s^p x xᵀ over an expert's
/// tokens).

#include "aq/forward/forward.h"
#include "aq/quant/solver.h"

namespace aq {

using LanePartials = std::vector<TreeSum::Partial>;

/// Rows of an input: either a matrix itself or something computed sequence by sequence.
/// Fills `scratch` if it needs to and returns the rows `[rows.size(), columns]`.
using RowSource = std::function<MatrixView<const float>(Range rows, Matrix& scratch)>;

/// Every token with weight 1, sequence by sequence: attention, routers, the head, experts that are
/// calibrated on all tokens. Threads take lanes, or tiles of the sum where there are fewer lanes
/// than threads. Inside a parallel_for it runs on the calling thread and keeps one lane in work.
LanePartials sum_all_tokens(const Solver& solver, const Batch& batch, const RowSource& source);

/// Where the inputs of a lane's tokens are: rows `rows` of `matrix` (all of them when empty).
struct LaneRows {
  MatrixView<const float> matrix;
  std::span<const std::int32_t> rows;
};

/// One expert's tokens with weight s^exponent. `lane_input(lane)` says where the inputs
/// `[tokens of the lane, columns]` are; it is asked for lanes with tokens only. Threads as above.
LanePartials sum_routed_tokens(const Solver& solver, const Batch& batch, const TokenList& list,
                               double exponent, const std::function<LaneRows(Index)>& lane_input);

}  // namespace aq
