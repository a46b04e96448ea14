#include "aq/model/model.h"

namespace aq {
namespace {

/// Calls visit(linear) for every linear of the layer in order of use.
template <class Visit>
void for_each_linear(const LayerSpec& layer, const Visit& visit) {
  const auto visit_mlp = [&](const MlpSpec& mlp) {
    for (const LinearSpec* linear : {&mlp.gate, &mlp.up, &mlp.down}) visit(*linear);
  };
  for (const LinearSpec* linear : layer.attention_inputs()) visit(*linear);
  if (layer.latent) {
    if (layer.latent->q_a) visit(layer.latent->q);
    visit(layer.latent->kv_b);
  }
  visit(layer.o);
  if (layer.dense) visit_mlp(*layer.dense);
  if (!layer.moe) return;
  visit(layer.moe->router);
  const bool shared = layer.moe->shared.has_value();
  if (shared && layer.moe->shared->router) visit(*layer.moe->shared->router);
  for (const MlpSpec& expert : layer.moe->experts) visit_mlp(expert);
  if (shared) visit_mlp(layer.moe->shared->mlp);
}

}  // namespace

std::string Model::head_tensor() const {
  return tied_head ? embedding : head.weight_name();
}

std::vector<const LayerSpec*> Model::moe_layers() const {
  std::vector<const LayerSpec*> result;
  for (const LayerSpec& layer : layers)
    if (layer.moe) result.push_back(&layer);
  return result;
}

std::vector<const LinearSpec*> LayerSpec::attention_inputs() const {
  if (heads) return {&heads->q, &heads->k, &heads->v};
  return {latent->q_a ? &*latent->q_a : &latent->q, &latent->kv_a};
}

const MlpSpec& mlp_of(const LayerSpec& layer, Index number) {
  if (layer.dense) return *layer.dense;
  const MoeSpec& moe = *layer.moe;
  return number < moe.routing.experts ? moe.experts[static_cast<std::size_t>(number)]
                                      : moe.shared->mlp;
}

std::vector<const LinearSpec*> all_linears(const Model& model) {
  std::vector<const LinearSpec*> linears;
  for (const LayerSpec& layer : model.layers)
    for_each_linear(layer, [&](const LinearSpec& linear) { linears.push_back(&linear); });
  linears.push_back(&model.head);
  return linears;
}

}  // namespace aq
