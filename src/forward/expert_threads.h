#pragma once
/// What pieces of this module share about threads and experts.

#include <functional>

#include "aq/forward/expert_pass.h"

namespace aq {

/// Experts on threads; few experts one after the other, with threads for the lanes of each.
/// `busy`: those that have anything to do here.
void for_each_expert(std::span<const Index> busy, const std::function<void(Index)>& work);

/// gate and up of one MLP as they are run.
struct GateUp {
  GateUp(const MlpSpec& mlp, const Weights& weights)
      : gate(weights.used(mlp.gate)), up(weights.used(mlp.up)), activation(mlp.activation) {}

  /// activation(gate(x), up(x)) for the given rows of `normed`: `[rows.size(), width]`, float32.
  Tensor hidden(const Tensor& normed, std::span<const std::int32_t> rows) const;
  /// The same for a whole list, with the elements that down multiplies.
  Tensor hidden(const Tensor& normed, const TokenList& list) const;

  UsedLinear gate, up;
  GatedActivation activation;
};

}  // namespace aq
