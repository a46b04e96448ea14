#pragma once
/// The tokens in the original model, beside a layer that is quantized: what its linears lack.
/// Where tokens meet quantized layers, each linear aims at the original model's outputs: q, k, v
/// and gate, up at those for the inputs there (GPTAQ, arXiv 2504.02692), o and down at what brings
/// the residual stream back to that of the original model.

#include <optional>

#include "aq/forward/decoder_layer.h"
#include "pipeline/experts.h"

namespace aq {

/// How routed experts with original weights run where tokens travel to them.
DispatchedRun original_experts(const StageContext& context, const LayerPlan& plan);

class OriginalStream {
 public:
  /// @param layer  with its original weights
  /// @param x  the layer's input there, which becomes its output; null: there is no such stream,
  ///   and nothing is done
  OriginalStream(const StageContext& context, const DecoderLayer& layer, const LayerPlan& plan,
                 Tensor* x)
      : context_(context), plan_(plan), layer_(layer), x_(x) {}

  /// Of a stage's inputs, in the order of its tasks; nothing without a stream. To be called in the
  /// order of work.
  std::vector<Lack> attention();
  std::vector<Lack> latents();
  /// @param x  the own stream before o is added; it must outlive what is returned
  std::vector<Lack> output(const Tensor& x);
  std::vector<Lack> router();
  /// What the MLPs lack for these tokens of the own stream; x is the one before they are added.
  /// Null without a stream. After router(). Collective.
  const Drift* mlps(const Tensor& x, const Tensor& normed, const Routing& routing,
                    std::span<const ExpertCalibration> calibrations);

 private:
  template <class Work>
  auto forward(const Work& work) const;
  void add_experts(const Tensor& normed, const Routing& routing, Tensor& y) const;
  std::vector<float> shares(const Routing& routing, Index tokens,
                            std::span<const ExpertCalibration> calibrations) const;

  const StageContext& context_;
  const LayerPlan& plan_;
  const DecoderLayer& layer_;
  Tensor* x_;
  Latents latents_;
  Tensor normed_;                    ///< norm(x) there, until mlps()
  Tensor input_lack_, output_lack_;  ///< see Drift
  std::optional<Drift> drift_;
};

}  // namespace aq
