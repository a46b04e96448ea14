#include "eval/scored_model.h"

#include <memory>
#include <optional>

#include "aq/forward/decoder_layer.h"
#include "aq/forward/shared_input.h"

namespace aq {

ScoredModel::ScoredModel(const ModelFiles& files, const MatrixReader* quantized,
                         Activations activations)
    : files_(files),
      quantized_(quantized),
      activations_(activations),
      weights_(files.checkpoint, files.model) {}

void ScoredModel::load(Index layer) {
  weights_.clear();
  if (quantized_ == nullptr) return;
  for (const LinearSpec* linear : all_linears(model()))
    if (linear->layer == layer && quantized_->has(linear->name)) {
      NamedMatrix named = quantized_->read(linear->name);
      weights_.put(named.name, std::move(named.matrix),
                   activations_ == Activations::rounded ? named.activation : std::nullopt);
    }
}

Tensor ScoredModel::run_layers(const Batch& batch, const AfterLayer& after_layer) {
  Tensor x = embed_tokens(weights_, batch);
  for (const LayerSpec& layer : model().layers) {
    load(layer.index);
    after_layer(layer, DecoderLayer{model(), layer, weights_, batch}.run(x));
  }
  weights_.clear();
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
