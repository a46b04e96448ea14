#pragma once
/// What dispatched experts give: made where they live, brought back, and added in the order of all
/// experts.

#include "aq/core/timer.h"
#include "aq/forward/dispatch.h"

namespace aq {

/// What routed experts of a layer run on.
struct ExpertRun {
  const LayerSpec& layer;
  const Weights& weights;
  const Batch& batch;
  const Matrix& normed;
  const Routing& routing;
};

/// y += the outputs of the dispatched experts and of those that `stay` (ascending), in ascending
/// order. hidden[i] is what down of dispatch.experts()[i] reads, where it lives. Outputs travel in
/// rounds, each with at most as many rows as the rank with the most has tokens; owners run ahead of
/// them by as many rows as all ranks have tokens. Collective.
void add_expert_outputs(Dispatch& dispatch, const ExpertRun& run, std::span<const Index> stay,
                        std::vector<Matrix> hidden, PhaseTimes& times, Matrix& y);

/// Parts of a wave, each with at most `most` rows for any owner, or of one expert; `tokens` of each
/// expert on all ranks. The whole wave when `most` is 0.
std::vector<Range> cut_by_rows(Range wave, std::span<const int> owners,
                               std::span<const std::int64_t> tokens, Index most);

/// y += the outputs of the experts of `wave`, which live at `owners[expert]`. Collective.
void run_wave(Communicator& comm, const LaneLayout& lanes, std::span<const int> owners,
              const ExpertRun& run, Range wave, Matrix& y);

}  // namespace aq
