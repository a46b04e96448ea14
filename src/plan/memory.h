#pragma once
/// Memory of a rank, computed beforehand: what is alive at each moment of a layer.

#include <string>
#include <vector>

#include "aq/plan/plan.h"

namespace aq {

/// What the rank with the most tokens has to do with them.
struct RankShare {
  int ranks = 1;
  int threads = 1;
  int node_ranks = 1;  ///< of the rank's machine
  Index lanes = 0, sequences = 0;
  Index length = 0;       ///< tokens of a sequence
  Index lane_tokens = 0;  ///< most of one lane
  Index tokens = 0;       ///< of the rank
  Index kept = 0;         ///< partial sums of one Hessian that a rank ends with
  Index pending = 0;      ///< most that it has while it adds its lanes, the lane in work included
  Index inbound = 0;      ///< partial sums of one Hessian that come from other ranks, at most
  Index workers = 1;      ///< threads that have a sequence to work on
  Index all_tokens = 0;   ///< of all ranks
  Index all_lanes = 0;    ///< of all ranks
  Index all_pending = 0;  ///< most partial sums of a rank that adds all lanes
  bool dispatch = false;
  bool bf16 = false;     ///< products of the forward pass
  bool offload = false;  ///< of activations to files
};
RankShare rank_share(const Workload& workload, int ranks, const PlanLimits& limits);

/// Matrices that share one Hessian.
struct TaskShape {
  Index columns = 0;
  Index rows = 0;          ///< that are quantized, of all matrices
  Index weights = 0;       ///< of all matrices, quantized or not
  Index packed_bytes = 0;  ///< of the results in memory
  Index group = 0;         ///< columns that share a grid, at most
  bool has_hessian = false;
  Index cross_rows = 0;     ///< of the cross sum beside it; 0: none
  Index output_rows = 0;    ///< of output factors beside it; 0: none
  bool along_tree = false;  ///< the only sum of its stage, which never goes the direct way
};

struct StageShape {
  Stage stage = Stage::qkv;
  TaskShape task;
};

/// Sizes that the estimate of a layer needs.
struct LayerSizes {
  Index hidden = 0;
  Index vocabulary = 0;
  Index core_width = 0;               ///< output of the attention core
  Index head_widths = 0;              ///< of q, k and v together, and what they are made from
  Index gradient_widths = 0;          ///< what their gradients take beside them
  Index latent_width = 0;             ///< of the latents that are kept between stages
  Index attention_weights = 0;        ///< most weights of attention that are used at one time
  std::vector<StageShape> attention;  ///< of attention_groups
  Index mlp_width = 0;                ///< of the wave's experts or of the dense MLP
  TaskShape gate_up, down;            ///< of one of them
  Index experts = 0;                  ///< 1 for a dense MLP
  Index top_k = 0;                    ///< experts of the wave's kind that a token meets
  Index layer_packed_bytes = 0;       ///< all results of the layer
  bool refines = false;               ///< the factor holds the damped H too
  bool reorders = false;              ///< static act-order: a reordered triangle
  bool two_passes = false;     ///< the layer's input is kept for a second pass (Sequential::layer)
  bool runs_original = false;  ///< the original stream goes beside
  bool all_tokens = false;     ///< an expert may be calibrated on every token
  bool routed = false;         ///< the wave's experts are, so that their tokens may be dispatched
};

/// Bytes in memory of a matrix quantized by `scheme` (scales are float there).
Index packed_bytes(const Scheme& scheme, Index rows, Index columns);

/// Most partial sums that a rank keeps at one time while it adds its lanes in tree order.
Index most_pending_partials(const LaneLayout& layout, int ranks);
/// What a rank has of sums of others while `tasks` sums of so many bytes are reduced, along the
/// tree or in whichever way takes more.
Index reduce_buffers(const RankShare& share, Index tasks, Index sum_bytes, bool along_tree);
/// Experts of a wave, and of these how many have sums on every rank at one time: all of them, or
/// with dispatch `limits.reduced`.
struct WaveShape {
  Index experts = 0;
  DispatchLimits limits = {};
};
/// Of so many experts, with the fewest `reduced` or as many as add nothing to the peak.
WaveShape wave_shape(const LayerSizes& sizes, const RankShare& share, Index experts);
/// Of the rank with the most, when the layer's experts come in such waves.
std::vector<MemoryMoment> layer_memory(const LayerSizes& sizes, const RankShare& share,
                                       const WaveShape& wave);
/// The moment with the most.
const MemoryMoment& largest(const std::vector<MemoryMoment>& moments);

}  // namespace aq
