#pragma once
/// The attention half of a decoder layer over all tokens of a rank, in pieces between which the
/// caller can quantize. The unit of every call is a sequence.

#include "aq/forward/batch.h"
#include "aq/forward/weights.h"
#include "aq/model/model.h"

namespace aq {

/// What latent attention makes of norm(x) before the heads: the inputs of q_b and kv_b, and the
/// rotary key. Empty for projected heads.
struct Latents {
  Matrix q;         ///< norm(q_a(.)) `[rows, q rank]`; empty without q_a
  Matrix kv;        ///< norm of the latent `[rows, kv rank]`
  Matrix rope_key;  ///< `[rows, rope dim]`
};
Latents latents_of(const Model& model, const LayerSpec& layer, const Weights& weights,
                   const Batch& batch, const Matrix& x);

/// Output of the attention core `[rows, heads * value_dim]`: before o_proj.
Matrix attention_core(const Model& model, const LayerSpec& layer, const Weights& weights,
                      const Batch& batch, const Matrix& x, const Latents& latents);
/// x += o(core).
void add_attention_output(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                          const Matrix& core, Matrix& x);
/// All of it.
void run_attention(const Model& model, const LayerSpec& layer, const Weights& weights,
                   const Batch& batch, Matrix& x);

}  // namespace aq
