#pragma once
/// How tokens and routed experts are brought together: every rank runs its own tokens through all
/// experts and Hessian sums travel to their owners (reduce), or tokens travel to the expert's owner
/// and outputs come back (dispatch). Bytes of the result are the same.

#include <cstdint>
#include <span>
#include <vector>

#include "aq/plan/plan.h"

namespace aq {

/// Owner of an expert whose tokens stay where they are.
inline constexpr int kEverywhere = -1;
/// The rank of each routed expert of a layer, or kEverywhere.
using ExpertPlacement = std::vector<int>;

/// Tasks of some experts of a wave; tasks[i] are those of experts[i].
struct ExpertTasks {
  std::vector<Index> experts;
  StagePlan gate_up{.stage = Stage::gate_up, .tasks = {}}, down{.stage = Stage::down, .tasks = {}};
};

/// A wave whose token counts are known.
struct WaveSplit {
  ExpertTasks dispatched;  ///< both tasks of an expert have one owner, rows are not split
  /// In ascending pieces of at most `limits.reduced`, placed as always: few are split by rows.
  std::vector<ExpertTasks> reduced;
};

/// An expert with more than this share of an owner's mean work is hot: its tokens stay where they
/// are, so that all ranks sum and solve for it.
inline constexpr double kHotShare = 1.5;

/// Which experts of the wave are dispatched, and to whom: none that is hot, nor more tokens or
/// experts at one owner than the wave's limits. `tokens` are those of every expert of the layer on
/// all ranks; `stays` those that need tokens from everywhere (starved). `sweeps` of refinement.
/// Pure.
WaveSplit split_wave(const WavePlan& wave, std::span<const std::int64_t> tokens,
                     const std::vector<bool>& stays, int ranks, int sweeps);
/// Where split_wave puts the experts of all waves of a layer.
ExpertPlacement place_experts(const LayerPlan& plan, std::span<const std::int64_t> tokens,
                              const std::vector<bool>& stays, int ranks);
/// Every expert of the wave, placed as the plan says.
ExpertTasks whole_wave(const WavePlan& wave);

}  // namespace aq
