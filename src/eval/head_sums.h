#pragma once
/// Logits of hidden states, scored token by token and summed by window.

#include <span>
#include <vector>

#include "eval/inputs.h"
#include "eval/scored_model.h"
#include "eval/trace.h"

namespace aq {

/// A model behind its layers.
struct FinalStates {
  ScoredModel& scored;
  Tensor hidden;  ///< [rows of the batch, hidden]
};

/// Sums over the predicted tokens of each window, in token order.
struct WindowSums {
  std::vector<double> nll, kl, same_top1;

  explicit WindowSums(Index windows)
      : nll(windows, 0.0), kl(windows, 0.0), same_top1(windows, 0.0) {}
  void add_nll(Index window, const Tensor& logits, std::span<const std::int32_t> targets);
  /// Of the first `tokens` rows.
  void add_distances(Index window, const Tensor& reference, const Tensor& logits, Index tokens);
};

/// Every rank's sums in window order: only one rank has a value other than zero for a window.
/// Collective.
void gather_windows(std::vector<double>& sums, Communicator& comm);

struct HeadSums {
  WindowSums model, reference;
};

/// The heads of both models over the same windows, those of other ranks included. Collective.
HeadSums score_heads(const Inputs& inputs, FinalStates& model, FinalStates* reference, Trace* trace,
                     Communicator& comm);

}  // namespace aq
