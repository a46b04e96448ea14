#pragma once
/// The inner loops of this module, over contiguous floats. Compiled for several instruction sets
/// with the best one taken at load time, and the same bits with each of them: products and sums are
/// not contracted, and long sums run in a fixed number of partial sums.

#include "aq/core/index.h"

namespace aq::runtime {

/// Σ x², in double.
double sum_of_squares(const float* x, Index count);
/// The largest value.  @pre count > 0
float largest_of(const float* values, Index count);
/// Σ exp(x - largest): each term in fp32 with a relative error below 2e-7, the sum in double.
double exponential_sum(const float* x, float largest, Index count);
/// Σ exp(x - largest) (x - y): each exp in fp32 with a relative error below 2e-7, the rest in
/// double.
double weighted_difference(const float* x, float largest, const float* y, Index count);
/// x = exp(scale * (x - largest)), 0 below exp(-87.3); returns the sum in fp32.
float exponentiate(float* x, float scale, float largest, Index count);
/// Of p = softmax(scale * s): from the gradient by p to that by s, gradient = p * (gradient - Σ p
/// gradient) * scale, the sum in fp32.
void softmax_gradient(const float* p, float scale, float* gradient, Index count);
/// out = weight * (x * factor). `out` may be x.
void scale_by(const float* x, float factor, const float* weight, Index count, float* out);
/// x = x * factor.
void scale(float* x, float factor, Index count);
/// x = min(max(x, -limit), limit).
void clamp(float* x, float limit, Index count);
/// gate = gate / (1 + exp(-gate)) * up.
void silu_multiply(float* gate, const float* up, Index count);
/// g = min(gate, limit), u = min(max(up, -limit), limit): gate = g / (1 + exp(-alpha * g)) * (u +
/// 1).
void clamped_multiply(float* gate, const float* up, float limit, float alpha, Index count);
/// x = x + values.
void add(float* x, const float* values, Index count);
/// x = x + factor * values.
void add_scaled(float* x, float factor, const float* values, Index count);
/// (low, high) = (low * cosine - high * sine, high * cosine + low * sine).
void rotate(float* low, float* high, const float* cosine, const float* sine, Index count);
/// The same of the pairs (x[2j], x[2j+1]), `count` of them.
void rotate_pairs(float* x, const float* cosine, const float* sine, Index count);

}  // namespace aq::runtime
