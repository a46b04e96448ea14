#pragma once
/// One decoder layer over all tokens of a rank, in pieces, so that the caller can quantize between
/// them. What a piece computes depends on a sequence, or an expert's tokens of one lane, never on
/// ranks or threads.

#include "aq/forward/dispatched_run.h"
#include "aq/forward/linear_input.h"

namespace aq {

/// What latent attention makes of norm(x) before the heads: the inputs of q_b and kv_b, and the
/// rotary key. Empty for projected heads.
struct Latents {
  Tensor q;         ///< norm(q_a(.)) `[rows, q rank]`; empty without q_a
  Tensor kv;        ///< norm of the latent `[rows, kv rank]`
  Tensor rope_key;  ///< `[rows, rope dim]`
};

/// A layer, the weights that its tokens meet, and these tokens.
struct DecoderLayer {
  const Model& model;
  const LayerSpec& spec;
  const Weights& weights;
  const Batch& batch;

  /// What q, k and v read, or q_a (q without it) and kv_a.
  LinearInput attention_input(const Tensor& x) const;
  Latents latents(const Tensor& x) const;
  /// What q_b and kv_b read, in this order; nothing for projected heads.
  std::vector<LinearInput> latent_inputs(const Latents& latents) const;
  /// Output of the attention core `[rows, heads * value_dim]`: what o reads.
  Tensor attention_core(const Tensor& x, Latents latents) const;
  /// x += o(core).
  void add_attention_output(Tensor core, Tensor& x) const;
  /// norm(x): what routers and MLPs read.
  Tensor mlp_input(const Tensor& x) const;
  /// The MLPs of every token; `normed` = mlp_input(x).
  Routing route(const Tensor& normed) const;
  ExpertPass experts(const Tensor& normed, const Routing& routing) const {
    return {spec, weights, batch, normed, routing};
  }

  /// y += the outputs of all MLPs. With `dispatched` routed experts run where they live; collective
  /// then.
  void add_experts(const ExpertPass& pass, const DispatchedRun* dispatched, PhaseTimes& times,
                   Tensor& y) const;

  /// The whole layer: x becomes the next layer's input. The routing is returned for whoever wants
  /// to look at it. `dispatched`: see add_experts. The caller measures its time.
  Routing run(Tensor& x, const DispatchedRun* dispatched = nullptr) const;
};

Tensor embed_tokens(const Weights& weights, const Batch& batch);

/// x += y, the residual stream. Notes what is not finite (finite.h), as all pieces of a layer do.
void add_to_stream(const Tensor& y, Tensor& x);

}  // namespace aq
