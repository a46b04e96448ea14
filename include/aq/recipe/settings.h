#pragma once
/// The settings of GPTQ and of its calibration.

#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"
#include "aq/quant/solver.h"

namespace aq {

/// What happens to an expert with fewer than `min_tokens` calibration tokens.
enum class Starved {
  all_tokens,  ///< calibrate it on every token of the layer, each with weight 1
  rtn,         ///< round it to nearest
};

/// Which tokens calibrate a routed expert.
enum class ExpertTokens {
  routed,  ///< its own, each with the weight that the model gives it
  all,     ///< every token of the layer with weight 1
};

/// What the inputs of a linear have gone through when its Hessian is summed.
enum class Sequential {
  stage,  ///< everything before it quantized: o sees quantized q, k, v; down quantized gate and up
  layer,  ///< the layers before it quantized, its own layer original
  none,   ///< the original model; such Hessians can be kept and used for other recipes
};

/// What the outputs of a quantized matrix should come near.
enum class Target {
  own,  ///< those of its original weights for the same inputs
  /// Those of the original model for the same tokens: what is lost before is made up for. With
  /// Sequential::stage; in the other orders the matrices of a layer do not see each other.
  original,
};

/// Whether rows of q, k and v are refined together, by how their errors count together (B of
/// aq/quant/output_factor.h).
enum class OutputFactor {
  none,   ///< each row by itself
  layer,  ///< by what they change of the residual stream behind their own attention
};

/// The object "gptq" of a recipe. The keys, their ranges and words: setting_keys().
struct QuantizeSettings {
  GptqSettings gptq;
  double routing_exponent = 1;  ///< p of H = Σ s^p x xᵀ; 0: plain GPTQ
  Starved starved = Starved::all_tokens;
  Index min_tokens = 32;
  ExpertTokens expert_tokens = ExpertTokens::routed;
  Sequential sequential = Sequential::stage;
  Target target = Target::original;
  /// Whether tokens go through the original model too, beside what is quantized.
  bool runs_original() const {
    return target == Target::original && sequential == Sequential::stage;
  }
  OutputFactor output_factor = OutputFactor::layer;
  /// Whether output factors are summed: they act in sweeps.
  bool sums_outputs() const { return output_factor == OutputFactor::layer && gptq.refine > 0; }
  bool operator==(const QuantizeSettings&) const = default;
};

/// A key of the object "gptq"; each is also a flag of `quantize`, which wins.
struct SettingKey {
  std::string_view key;   ///< "act_order"; the flag is --act-order
  std::string_view help;  ///< what it does
  std::string values;     ///< "a number in [0, 100]", "none or static"
  std::string initial;    ///< what it is when nobody says anything
};
const std::vector<SettingKey>& setting_keys();
/// Sets a key from the text of a flag. Throws Error{usage} that names the flag and what it takes.
void set_setting(QuantizeSettings& settings, std::string_view key, std::string_view text);
/// Those that are not as they are by default: "damping 0.02, refine 8"; may be empty.
std::string changed_settings(const QuantizeSettings& settings);
/// Every key, also those that the recipe leaves out: all that decides the result.
std::string settings_to_json(const QuantizeSettings& settings);

}  // namespace aq
