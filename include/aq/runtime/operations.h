#pragma once
/// The pieces of a decoder layer over tensors. Where an operation is given `ranges`, each range of
/// rows is one product, or one pass, of its own, so that the bits of its rows depend on that range
/// alone; ranges run side by side, on threads or streams, which is this module's business. Without
/// ranges an operation is one of them. What an operation computes is said in pieces.h.

#include <functional>
#include <span>

#include "aq/runtime/pieces.h"
#include "aq/runtime/tensor.h"

namespace aq::runtime {

/// Runs a chain of operations for each range that is not empty, side by side. `chain` gets the
/// range's number and its rows.
void for_each_range(std::span<const Range> ranges,
                    const std::function<void(Index number, Range rows)>& chain);

Tensor embed(const Tensor& table, std::span<const std::int32_t> tokens, Storage storage);

void rms_norm(const Tensor& x, std::span<const float> weight, double eps, Tensor out);
Tensor rms_norm(const Tensor& x, std::span<const float> weight, double eps,
                std::span<const Range> ranges, Storage storage);

/// out [tokens, rows of weight] = x [tokens, inputs] · weightᵀ + bias; no bias when empty. x has
/// the elements of weight. Those of bfloat16 are summed in float32 and rounded to bfloat16 before
/// the bias is added; out is float32.
void linear(const Tensor& x, const Tensor& weight, std::span<const float> bias, Tensor out);

/// out [tokens, inputs] = gradient [tokens, rows of weight] · weight, elements as for linear.
void linear_gradient(const Tensor& gradient, const Tensor& weight, Tensor out);

void attention(const AttentionSpec& spec, const AttentionVectors& vectors, Tensor q, Tensor k,
               Tensor v, Tensor out);
void attention_gradient(const AttentionSpec& spec, const AttentionVectors& vectors, Tensor q,
                        Tensor k, Tensor v, const Tensor& gradient);
void expand_latent(const AttentionSpec& spec, const Tensor& kv, const Tensor& rope_key, Tensor& k,
                   Tensor& v);
void expand_latent_gradient(const AttentionSpec& spec, const Tensor& k, const Tensor& v, Tensor kv);
void gated_activation(const GatedActivation& activation, Tensor& gate, const Tensor& up);

/// out = from, rounded to nearest even where the elements of `out` are narrower.
void copy(const Tensor& from, Tensor out);
/// Row i of the result is row rows[i] of x.
Tensor gather_rows(const Tensor& x, std::span<const std::int32_t> rows);
/// x += y.
void add(const Tensor& y, Tensor x);
/// Row i of x times factors[i].
void scale_rows(std::span<const float> factors, Tensor x);
/// x - y.
Tensor difference(const Tensor& x, const Tensor& y);
/// y[rows[i]] += weights[i] * x[i]. No row comes twice.
void add_weighted(const Tensor& x, std::span<const std::int32_t> rows,
                  std::span<const float> weights, Tensor& y);

}  // namespace aq::runtime
