#pragma once
/// Experts run where they live: tokens are dispatched, outputs combined, in the order of all
/// experts.

#include <functional>

#include "aq/core/timer.h"
#include "aq/forward/dispatch.h"

namespace aq {

/// y += the outputs of the dispatched experts and of those that `stay` (ascending), in ascending
/// order. `hidden` is what down reads of the experts that live here. Outputs travel in rounds. In
/// one round no rank gets or keeps more rows than the rank with the most tokens has tokens, unless
/// it is a round of one expert. Owners make outputs before their round comes, up to as many rows as
/// all ranks have tokens. Collective.
void combine_outputs(Dispatch& dispatch, std::span<const Index> stay, ByExpert hidden,
                     PhaseTimes& times, Tensor& y);

/// Parts of a wave, each with at most `most` rows for any owner, or of one expert; `tokens` of each
/// expert on all ranks. The whole wave when `most` is 0.
std::vector<Range> cut_by_rows(Range wave, const ExpertPlacement& placement,
                               std::span<const std::int64_t> tokens, Index most);

/// How a layer's routed experts run where tokens travel to weights that are there already.
struct DispatchedRun {
  Transport& transport;
  const LaneLayout& lanes;
  const LayerPlan& plan;
  /// From the tokens of each expert on all ranks. Called on every rank before their weights are
  /// used.
  std::function<ExpertPlacement(std::span<const std::int64_t> tokens)> place;

  /// y += the outputs of all routed experts. Collective.
  void run(const ExpertPass& home, PhaseTimes& times, Tensor& y) const;
};

}  // namespace aq
