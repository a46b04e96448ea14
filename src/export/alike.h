#pragma once
/// Linears that servers take as one, which therefore are to be alike.

#include <vector>

#include "aq/model/model.h"

namespace aq {

using Linears = std::vector<const LinearSpec*>;

bool routed(const LinearSpec& linear);
std::vector<Linears> experts_by_layer(const Model& model);
std::vector<Linears> experts_of_all_layers(const Model& model);
/// q, k, v; gate, up; q_a, kv_a: a server runs them as one.
std::vector<Linears> fused_sets(const Model& model);
std::vector<Linears> experts_and_fused(const Model& model);

}  // namespace aq
