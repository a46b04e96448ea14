#pragma once
/// The pieces of a decoder layer's forward pass, fp32 on the CPU, on LibTorch. Every function works
/// on the calling thread alone, so callers spread blocks, experts or sequences over threads, and
/// the result depends on the shapes of the call alone.

#include <cstdint>
#include <span>
#include <string>

#include "aq/core/matrix_view.h"
#include "aq/model/model.h"

namespace aq::runtime {

/// One thread inside LibTorch and its BLAS; call at the start, on the thread that later opens the
/// parallel regions. OpenMP regions of that thread that name no number of threads then have one.
void initialize();
/// The instructions of this processor that multiply bfloat16 for LibTorch, "amx_bf16" or
/// "avx512_bf16"; empty: it has none, and such products are slower than those of float32.
std::string bf16_instructions();
/// Version of LibTorch, e.g. "1.13.1".
std::string torch_version();

/// out[t] = table[tokens[t]].
void embed(MatrixView<const float> table, std::span<const std::int32_t> tokens,
           MatrixView<float> out);

/// out = x / sqrt(mean(x^2) + eps) * weight, per row. In place allowed.
void rms_norm(MatrixView<const float> x, std::span<const float> weight, double eps,
              MatrixView<float> out);

/// out [tokens, rows of weight] = x [tokens, inputs] · weightᵀ.
void linear(MatrixView<const float> x, MatrixView<const float> weight, MatrixView<float> out);

/// x[t] += bias [columns of x].
void add_bias(std::span<const float> bias, MatrixView<float> x);

/// What attention reads beside q, k and v; empty where the model has none.
struct AttentionVectors {
  /// Weights of the norms: [q_width] and [k_width] for QkNorm::projection, [head_dim] each for
  /// QkNorm::head, whose heads share them.
  std::span<const float> q_norm = {}, k_norm = {};
  /// [heads]: one more logit under each softmax of a head, of a key without a value (gpt-oss).
  std::span<const float> sinks = {};
};

/// Norm of q and k, clamp, rotary embedding and causal attention of ONE sequence; q, k and v are
/// changed. q [t, q_width], k [t, k_width], v [t, v_width], out [t, out_width], widths of `spec`.
/// out = softmax(scale * q·kᵀ) · v per head. Positions are 0 .. t-1. @pre spec.scale > 0
void attention(const AttentionSpec& spec, const AttentionVectors& vectors, MatrixView<float> q,
               MatrixView<float> k, MatrixView<float> v, MatrixView<float> out);

/// Gradients of the same: with `gradient` [t, out_width] of something by `out`, q, k and v become
/// those by q, k and v as they came in.
void attention_gradient(const AttentionSpec& spec, const AttentionVectors& vectors,
                        MatrixView<float> q, MatrixView<float> k, MatrixView<float> v,
                        MatrixView<const float> gradient);

/// Keys and values of latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) for attention()
/// with as many kv heads as heads. With r columns in rope_key [t, r], that all heads share, and
/// n = head_dim - r: kv [t, heads * (n + value_dim)], a head is [key without rotation | value]
/// -> k [t, k_width], a head is [key without rotation | rope_key]; v [t, v_width].
void expand_latent(const AttentionSpec& spec, MatrixView<const float> kv,
                   MatrixView<const float> rope_key, MatrixView<float> k, MatrixView<float> v);

/// Gradients of the same by kv, from those by k and v; that by rope_key is left out.
void expand_latent_gradient(const AttentionSpec& spec, MatrixView<const float> k,
                            MatrixView<const float> v, MatrixView<float> kv);

/// The chosen experts of each token and the factors that multiply their outputs, as RouterSpec
/// says. logits [t, experts], correction [experts] or empty -> index [t, top_k], weight [t, top_k],
/// by falling score. Of equal scores the lower expert is first, of equal sums of score and
/// correction it is chosen, and of equal groups the lower one is kept. A group's score is made of
/// its experts' sums. For softmax_of_chosen the score is the logit.
void route(const RouterSpec& spec, MatrixView<const float> logits,
           std::span<const float> correction, MatrixView<std::int32_t> index,
           MatrixView<float> weight);

/// gate = activation(gate, up), in place.
void gated_activation(const GatedActivation& activation, MatrixView<float> gate,
                      MatrixView<const float> up);

/// x = 1 / (1 + exp(-x)), in double and rounded once: the factor of a shared expert.
void apply_sigmoid(MatrixView<float> x);

/// nll[t] = logsumexp(logits[t]) - logits[t][targets[t]], in double.
void token_nll(MatrixView<const float> logits, std::span<const std::int32_t> targets,
               std::span<double> nll);

/// How far a model's distribution of the next token is from that of the model it stands for.
struct TokenDistance {
  double kl = 0;  ///< Σ p (log p - log q) in nats; p = softmax(reference), q = softmax(logits)
  bool same_top1 = false;  ///< both hold the same token for the likeliest: the first of equal ones
};
/// distances[t] of row t. Each exp is taken in fp32: a KL is off by up to 4e-7 (1 + the largest
/// difference of two logits of one token).
void compare_distributions(MatrixView<const float> reference, MatrixView<const float> logits,
                           std::span<TokenDistance> distances);

}  // namespace aq::runtime
