#pragma once
/// q, k and v of one sequence, as attention and its gradient take them.

#include "aq/forward/decoder_layer.h"
#include "aq/runtime/operations.h"

namespace aq {

/// Before norms and rotation.
struct Heads {
  Tensor q, k, v;
};

/// The linears that make them.
class HeadMaker {
 public:
  HeadMaker(const Model& model, const LayerSpec& layer, const Weights& weights);

  /// The heads that are made at one time: all that share norms, a few of those of latents.
  std::vector<Range> groups() const;
  /// Attention of one of groups().
  AttentionSpec attention(Range group) const;
  /// @param group  one of groups()
  Heads operator()(const Tensor& x, const Latents& latents, Range rows, Range group) const;

 private:
  const LayerSpec& layer_;
  RmsNorm norm_;
  UsedLinear q_, k_, v_, kv_b_;
};

/// Norms and sinks of the heads.
struct HeadVectors {
  HeadVectors(const LayerSpec& layer, const Weights& weights);
  runtime::AttentionVectors view() const { return {q_norm, k_norm, sinks}; }

  std::vector<float> q_norm, k_norm, sinks;
};

}  // namespace aq
