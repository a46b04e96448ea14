#include "export/alike.h"

#include <algorithm>
#include <iterator>

namespace aq {

bool routed(const LinearSpec& linear) {
  return linear.expert >= 0;
}

namespace {

Linears experts_of(const LayerSpec& layer) {
  Linears experts;
  for (const LinearGroup& group : groups(layer))
    std::ranges::copy_if(group.linears, std::back_inserter(experts),
                         [](const LinearSpec* linear) { return routed(*linear); });
  return experts;
}

}  // namespace

std::vector<Linears> experts_by_layer(const Model& model) {
  std::vector<Linears> sets;
  for (const LayerSpec& layer : model.layers)
    if (Linears experts = experts_of(layer); !experts.empty()) sets.push_back(std::move(experts));
  return sets;
}

std::vector<Linears> experts_of_all_layers(const Model& model) {
  std::vector<Linears> sets;
  for (const Linears& experts : experts_by_layer(model))
    if (sets.empty())
      sets.push_back(experts);
    else
      sets.front().insert(sets.front().end(), experts.begin(), experts.end());
  return sets;
}

std::vector<Linears> fused_sets(const Model& model) {
  std::vector<Linears> sets;
  for (const LayerSpec& layer : model.layers)
    for (const LinearGroup& group : groups(layer)) {
      Linears set;
      for (const LinearSpec* linear : group.linears)
        if (!routed(*linear) && linear->role != Role::router && linear->role != Role::shared_router)
          set.push_back(linear);
      const bool latent = !set.empty() && set.back()->role == Role::kv_a;
      if (set.size() >= 2 && (!latent || set.front()->role == Role::q_a))
        sets.push_back(std::move(set));
    }
  return sets;
}

std::vector<Linears> experts_and_fused(const Model& model) {
  std::vector<Linears> sets = experts_by_layer(model);
  for (Linears& set : fused_sets(model)) sets.push_back(std::move(set));
  return sets;
}

}  // namespace aq
