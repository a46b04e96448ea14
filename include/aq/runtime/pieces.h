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

/// Norm of q and k, clamp, rotary embedding and causal attention of ONE sequence; q, k and v are
/// changed. q [t, heads*d], k and v [t, kv_heads*d], out [t, heads*d]. q_norm and k_norm are empty
/// unless spec.qk_norm asks for them. Positions are 0 .. t-1.
void attention(const AttentionSpec& spec, std::span<const float> q_norm,
               std::span<const float> k_norm, MatrixView<float> q, MatrixView<float> k,
               MatrixView<float> v, MatrixView<float> out);
/// Memory that attention() takes while it works on a sequence of `tokens`.
Index attention_scratch_bytes(Index tokens);

/// The chosen experts of each token by falling weight and the factors that multiply their outputs.
/// logits [t, experts] -> index [t, top_k], weight [t, top_k]. Ties: the lower expert first.
void route(const RouterSpec& spec, MatrixView<const float> logits, MatrixView<std::int32_t> index,
           MatrixView<float> weight);

/// gate = silu(gate) * up, in place.
void silu_multiply(MatrixView<float> gate, MatrixView<const float> up);

/// nll[t] = logsumexp(logits[t]) - logits[t][targets[t]], in double.
void token_nll(MatrixView<const float> logits, std::span<const std::int32_t> targets,
               std::span<double> nll);

}  // namespace aq::runtime
