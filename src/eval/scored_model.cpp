#include "eval/scored_model.h"

#include <memory>
#include <utility>

#include "aq/forward/shared_input.h"

namespace aq {

QuantizedLinears all_of(const MatrixReader* quantized) {
  return [quantized](const LinearSpec& linear) {
    return quantized != nullptr && quantized->has(linear.name) ? quantized : nullptr;
  };
}

ScoredModel::ScoredModel(const ModelFiles& files, QuantizedLinears quantized,
                         Activations activations)
    : files_(files),
      quantized_(std::move(quantized)),
      activations_(activations),
      weights_(files.checkpoint, files.model) {}

void ScoredModel::load(Index layer) {
  weights_.clear();
  for (const LinearSpec* linear : all_linears(model()))
    if (linear->layer == layer)
      if (const MatrixReader* file = quantized_(*linear)) {
        NamedMatrix named = file->read(linear->name);
        weights_.put(named.name, std::move(named.matrix),
                     activations_ == Activations::rounded ? named.activation : std::nullopt);
      }
}

Routing ScoredModel::run(const LayerSpec& layer, const Batch& batch, Tensor& x) {
  load(layer.index);
  Routing routing = DecoderLayer{model(), layer, weights_, batch}.run(x);
  weights_.clear();
  return routing;
}

Tensor ScoredModel::run_layers(const Batch& batch, const AfterLayer& after_layer) {
  Tensor x = embed(batch);
  for (const LayerSpec& layer : model().layers) after_layer(layer, run(layer, batch, x));
  return x;
}

std::function<Tensor(const Tensor&)> ScoredModel::head() {
  load(-1);
  auto linear = std::make_shared<const UsedLinear>(weights_.used(model().head));
  weights_.clear();
  return [linear, norm = RmsNorm(model(), weights_, model().final_norm)](const Tensor& hidden) {
    return SharedInput(norm(hidden)).multiply(*linear);
  };
}

}  // namespace aq
