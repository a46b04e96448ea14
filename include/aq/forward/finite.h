#pragma once
/// Activations that are infinite or NaN poison everything behind them: they end the run, with one
/// error on whichever ranks and threads they were met.

#include "aq/comm/communicator.h"
#include "aq/model/model.h"
#include "aq/runtime/tensor.h"

namespace aq {

/// What gives values, in the order in which tokens meet it.
enum class ForwardPart {
  attention,         ///< q, k, v and what attention makes of them
  attention_output,  ///< o, and the residual stream behind it
  router,            ///< logits, and the factors of a shared expert
  gate_up,           ///< activation(gate) * up of an expert
  down,              ///< output of an expert
  sum,               ///< the residual stream behind the experts
  head,              ///< logits of the vocabulary
};

/// Remembers the part when a value of it is infinite or NaN. Any thread may call it.
/// @param expert  its number in the layer, of gate_up and down
/// @return whether all are finite
bool note_finite(ForwardPart part, const Tensor& tensor, Index expert = 0);

/// Throws the same Error{input} on every rank when any of them has noted a value since the last
/// call. It names the first part of the layer, with layer, expert and linears. Collective.
void check_finite(Communicator& comm, const LayerSpec& layer);
/// The same for the head.
void check_finite(Communicator& comm, const LinearSpec& head);

}  // namespace aq
