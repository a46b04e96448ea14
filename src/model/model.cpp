#include "aq/model/model.h"

namespace aq {
std::string Model::head_tensor() const {
  return tied_head ? embedding : head.weight_name();
}

std::vector<const LayerSpec*> Model::moe_layers() const {
  std::vector<const LayerSpec*> result;
  for (const LayerSpec& layer : layers)
    if (layer.moe) result.push_back(&layer);
  return result;
}

std::vector<MlpRun> mlp_runs(const LayerSpec& layer) {
  std::vector<MlpRun> runs;
  for (Index number = 0; number < std::ssize(layer.mlps); ++number) {
    const MlpKind kind = layer.mlp(number).kind;
    if (runs.empty() || runs.back().kind != kind) runs.push_back({kind, {number, number}});
    runs.back().numbers.end = number + 1;
  }
  return runs;
}

const MlpSpec* first_mlp(const LayerSpec& layer, MlpKind kind) {
  for (const MlpSpec& mlp : layer.mlps)
    if (mlp.kind == kind) return &mlp;
  return nullptr;
}

std::vector<const LinearSpec*> qkv_linears(const LayerSpec& layer) {
  if (layer.latent) return {&layer.latent->q, &layer.latent->kv_b};
  return {&layer.heads->q, &layer.heads->k, &layer.heads->v};
}

std::vector<LinearGroup> attention_groups(const LayerSpec& layer) {
  std::vector<LinearGroup> groups;
  if (layer.heads) {
    const ProjectedHeads& heads = *layer.heads;
    groups.push_back({Stage::qkv, {&heads.q, &heads.k, &heads.v}});
  } else {
    const LatentHeads& latent = *layer.latent;
    groups.push_back({Stage::qkv, {latent.q_a ? &*latent.q_a : &latent.q, &latent.kv_a}});
    if (latent.q_a) groups.push_back({Stage::latent, {&latent.q}});
    groups.push_back({Stage::latent, {&latent.kv_b}});
  }
  groups.push_back({Stage::o, {&layer.o}});
  return groups;
}

std::vector<LinearGroup> groups_before_mlps(const LayerSpec& layer) {
  std::vector<LinearGroup> groups = attention_groups(layer);
  LinearGroup routers{Stage::router, {}};
  if (layer.moe) routers.linears.push_back(&layer.moe->router);
  for (const MlpSpec& mlp : layer.mlps)
    if (mlp.output_gate) routers.linears.push_back(&*mlp.output_gate);
  if (!routers.linears.empty()) groups.push_back(std::move(routers));
  return groups;
}

std::vector<LinearGroup> mlp_groups(const MlpSpec& mlp) {
  return {{Stage::gate_up, {&mlp.gate, &mlp.up}}, {Stage::down, {&mlp.down}}};
}

std::vector<LinearGroup> groups(const LayerSpec& layer) {
  std::vector<LinearGroup> all = groups_before_mlps(layer);
  for (const MlpSpec& mlp : layer.mlps)
    for (LinearGroup& group : mlp_groups(mlp)) all.push_back(std::move(group));
  return all;
}

std::vector<const LinearSpec*> all_linears(const Model& model) {
  std::vector<const LinearSpec*> linears;
  for (const LayerSpec& layer : model.layers)
    for (const LinearGroup& group : groups(layer))
      linears.insert(linears.end(), group.linears.begin(), group.linears.end());
  linears.push_back(&model.head);
  return linears;
}

void number_linears(Model& model) {
  Index id = 0;
  for (const LinearSpec* linear : all_linears(model))
    const_cast<LinearSpec*>(linear)->id = id++;  // the model is the caller's to change
}

}  // namespace aq
