#pragma once
/// Memory of a rank, computed beforehand.

#include "aq/plan/plan.h"

namespace aq {

/// Sizes that the estimate of a layer needs.
struct LayerSizes {
  Index hidden = 0;
  Index core_width = 0;         ///< output of the attention core
  Index head_widths = 0;        ///< of q, k and v together, and what they are made from
  Index latent_width = 0;       ///< of the latents that are kept between stages
  Index attention_weights = 0;  ///< most weights of attention that are used at one time
  Index mlp_width = 0;          ///< of the wave's experts or of the dense MLP
  Index mlp_weights = 0;        ///< weights of one of them
  Index layer_weights = 0;      ///< of all experts of the layer
  Index experts = 0;            ///< 1 for a dense MLP
  Index top_k = 0;
  double stored_bits = 16;  ///< bits a weight that the packed results take
  /// Arrays of columns² that factoring a Hessian takes: the triangle and U; for refinement H too;
  /// for static act-order the reordered triangle.
  double factor_squares = 1;
  bool two_passes = false;  ///< the layer's input is kept for a second pass (Sequential::layer)
  bool all_tokens = false;  ///< an expert may be calibrated on every token
};

/// Most partial sums that a rank keeps at one time while it adds its lanes in tree order.
Index most_pending_partials(const LaneLayout& layout, int ranks);
/// Of a rank with the most lanes, in a wave of `wave_experts`.
MemoryEstimate estimate_memory(const LayerSizes& sizes, const Workload& workload, int ranks,
                               int threads, Index wave_experts);

}  // namespace aq
