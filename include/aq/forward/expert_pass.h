#pragma once
/// The MLPs of a layer: two products, and a sum over the experts of each token. What is computed
/// depends on the tokens of a lane alone, never on ranks or threads.

#include <map>

#include "aq/forward/routing.h"

namespace aq {

/// A tensor for each of some MLPs, by its number in the layer; none where it has no tokens.
using ByExpert = std::map<Index, Tensor>;

/// Where the tokens of a pass are.
enum class TokensAt {
  home,   ///< on the rank that holds their lane, which runs all of their experts
  owner,  ///< on the rank that owns their expert: they were dispatched
};

/// What tokens lack beside the original model, row for row.
struct Drift {
  const Weights& original;
  const Tensor& input;  ///< norm(x) there less here `[rows, hidden]`
  /// What MLPs with their original weights leave of the way to the original model's output, over
  /// Σ s² of the token `[rows, hidden]`: an MLP with factor s makes up for s² of it.
  const Tensor& output;
};

/// MLPs of a layer with the tokens that they work on.
struct ExpertPass {
  const LayerSpec& layer;
  const Weights& weights;
  const Batch& batch;
  const Tensor& normed;  ///< norm(x) `[rows, hidden]`
  const Routing& routing;
  TokensAt at = TokensAt::home;
  const Drift* drift = nullptr;  ///< where targets come from the original model

  const TokenList& tokens(Index expert) const { return routing.experts[expert]; }
  /// activation(gate(x), up(x)) of each expert for the tokens of its list `[tokens, width]`.
  ByExpert hidden(std::span<const Index> experts) const;
  /// down(hidden) of each expert `[tokens, hidden size]`. What was hidden is freed on the way.
  ByExpert outputs(ByExpert hidden) const;
  /// y[row] += weight * output, of the experts in ascending order.
  void add(const ByExpert& outputs, Tensor& y) const;

  /// add(outputs(hidden), y), few experts at one time to bound the memory.
  void add_down(ByExpert hidden, Tensor& y) const;
  /// All of the above, a few experts at a time.
  void run(Range experts, Tensor& y) const;
};

}  // namespace aq
