#pragma once
/// The MLP half of a layer while it is quantized: waves of experts, or a dense MLP as one expert.

#include "pipeline/stage.h"

namespace aq {

/// The tokens that calibrate an expert.
enum class CalibratedOn {
  routed,   ///< its own, each with the weight that the model gives it
  all,      ///< every token of the layer with weight 1
  nothing,  ///< none: it is rounded
};

struct ExpertCalibration {
  CalibratedOn tokens = CalibratedOn::routed;
  std::string starved = "none";  ///< why it is not what was asked for
};

/// What the settings say of each expert. `expert_tokens` are the tokens routed to it on all ranks;
/// empty for a dense MLP. What is not routed is calibrated on all tokens with its own factors.
std::vector<ExpertCalibration> choose_tokens(const QuantizeSettings& settings,
                                             const LayerSpec& layer,
                                             std::span<const std::int64_t> expert_tokens);

/// What the experts of a layer get.
struct ExpertInputs {
  const LayerSpec& layer;
  const Batch& batch;
  const Matrix& normed;    ///< norm(x) `[rows, hidden]`
  const Routing& routing;  ///< which tokens go where
  const Weights& weights;  ///< of gate, up and down as the tokens meet them
  /// Tokens of each routed expert on all ranks.
  std::span<const std::int64_t> expert_tokens = {};
};

/// Quantizes gate and up, then down, of the wave's experts; records in the order of the model. With
/// `y` the experts' outputs are added to it. Collective.
std::vector<QuantizedRecord> quantize_wave(StageContext& context, const WavePlan& wave,
                                           const ExpertInputs& inputs,
                                           std::span<const ExpertCalibration> calibrations,
                                           Matrix* y);

/// The waves of routed experts.
std::vector<Range> routed_waves(const LayerPlan& plan);
/// The rank of each routed expert when tokens are dispatched to weights that are there already, or
/// kEverywhere; `tokens` of each on all ranks.
std::vector<int> owners_of_tokens(const LayerPlan& plan, std::span<const std::int64_t> tokens,
                                  int ranks);

/// gate, up, down of each expert in turn.
std::vector<QuantizedRecord> in_model_order(std::vector<QuantizedRecord> gate_up,
                                            std::vector<QuantizedRecord> down);

}  // namespace aq
