#pragma once
/// One decoder layer: quantize each linear from the inputs that it really gets, run it once.

#include "pipeline/stage.h"

namespace aq {

struct LayerResult {
  std::vector<QuantizedRecord> records;  ///< in the order of the model
  std::vector<std::int64_t>
      expert_tokens;  ///< routed to each expert on all ranks; empty when dense
};

/// Called before each wave with the experts in work; may throw to stop.
using WaveObserver = std::function<void(Range experts)>;

/// Quantizes the layer and replaces x by the next layer's input. Collective.
LayerResult quantize_layer(StageContext& context, const Model& model, const LayerSpec& layer,
                           const LayerPlan& plan, const Batch& batch, Matrix& x,
                           const WaveObserver& before_wave);

/// Quantizes the head from the final norm of x, where the plan says so. Collective.
std::vector<QuantizedRecord> quantize_head(StageContext& context, const Model& model,
                                           const StagePlan& plan, const Batch& batch,
                                           const Matrix& x);

}  // namespace aq
