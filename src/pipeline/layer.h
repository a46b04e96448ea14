#pragma once
/// One decoder layer: each linear from the inputs that the order of the settings gives it.

#include "aq/forward/decoder_layer.h"
#include "aq/run/kept_hessians.h"
#include "aq/run/streams.h"
#include "pipeline/stage.h"

namespace aq {

struct LayerResult {
  std::vector<QuantizedRecord> records;  ///< in the order of the model
  std::vector<std::int64_t>
      expert_tokens;          ///< routed to each expert on all ranks; empty when dense
  ExpertPlacement placement;  ///< where their tokens go when these travel
};

/// Called before each wave with the experts in work; may throw to stop.
using WaveObserver = std::function<void(Range experts)>;

/// Quantizes the layer and replaces the streams by the next layer's input. Collective.
LayerResult quantize_layer(StageContext& context, const Model& model, const LayerSpec& spec,
                           const LayerPlan& plan, const Batch& batch, Streams& streams,
                           const WaveObserver& before_wave);

/// Quantizes the head from the final norm of x, where the plan says so. Collective.
std::vector<QuantizedRecord> quantize_head(StageContext& context, const Model& model,
                                           const StagePlan& plan, const Batch& batch,
                                           const Streams& streams);

/// The same from kept sums, which are those of the layer. Collective.
LayerResult quantize_layer_from(const KeptHessians& kept, StageContext& context,
                                const LayerPlan& plan, const WaveObserver& before_wave);
std::vector<QuantizedRecord> quantize_head_from(const KeptHessians& kept, StageContext& context,
                                                const StagePlan& plan);

/// The weights of the layers that x has gone through when it reaches the next one.
const Weights& forward_weights(const StageContext& context);

}  // namespace aq
