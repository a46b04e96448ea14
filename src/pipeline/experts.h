#pragma once
/// The MLP half of a layer while it is quantized: waves of experts, or a dense MLP as one expert.

#include "aq/plan/dispatch.h"
#include "pipeline/stage.h"

namespace aq {

struct ExpertCalibration {
  CalibratedOn tokens = CalibratedOn::routed;
  std::string starved = "none";  ///< why it is not what was asked for
};

/// What the settings say of each MLP of the layer. `expert_tokens` are the tokens routed to each
/// expert on all ranks; empty for a dense MLP. What is not routed is calibrated on all tokens with
/// its own factors.
std::vector<ExpertCalibration> choose_tokens(const QuantizeSettings& settings,
                                             const LayerSpec& layer,
                                             std::span<const std::int64_t> expert_tokens);

/// The experts of choose_tokens whose tokens never travel: they need those of all ranks.
std::vector<bool> staying(std::span<const ExpertCalibration> calibrations);

/// Quantizes gate and up, then down, of the wave's experts; records in the order of the model. With
/// `y` the experts' outputs are added to it. Collective.
/// @param expert_tokens  as for choose_tokens
std::vector<QuantizedRecord> quantize_wave(StageContext& context, const WavePlan& wave,
                                           const ExpertPass& pass,
                                           std::span<const std::int64_t> expert_tokens,
                                           std::span<const ExpertCalibration> calibrations,
                                           Tensor* y);

/// gate, up, down of each expert in turn.
std::vector<QuantizedRecord> in_model_order(std::vector<QuantizedRecord> gate_up,
                                            std::vector<QuantizedRecord> down);

}  // namespace aq
