#pragma once
/// Sizes of a layer and of its tasks, as the recipe says, for the estimate of memory.

#include "plan/memory.h"
#include "plan/sum_traffic.h"

namespace aq {

/// The kind and the rows of the cross sum beside the Hessian of a task, where there is one.
CrossSum cross_of(Stage stage);
Index cross_rows(const LinearGroup& group);
/// Whether the rows of a linear are refined together.
bool is_coupled(const Assignments& assignments, const LayerSpec& layer, const LinearSpec& linear);

/// Sizes of a layer without its experts.
LayerSizes sizes_of(const Model& model, const LayerSpec& layer, const Assignments& assignments);
/// Sizes for waves of these MLPs: those of the largest. Each token meets top_k of routed ones, and
/// every other one.
void set_experts(LayerSizes& sizes, const Assignments& assignments, const LayerSpec& layer,
                 const MlpRun& run);
/// Sums over all tokens that always go along the tree, of stages with one task. (Those of attention
/// with two are planned as if each was alone, and as if they went the direct way.)
void mark_tree_sums(LayerSizes& sizes, SumTraffics& sums);

}  // namespace aq
