/// Loops that find the peaks, on the vectors of the row kernel. Every probe_loops_*.cpp compiles
/// this file for its own instruction set, in a namespace of its own (AQ_TILE_NAMESPACE).

#include "bench/probes.h"
#include "quant/cpu/vector_rows.inl"

namespace aq::AQ_TILE_NAMESPACE {
namespace {

/// Chains of multiply-adds: more than latency times units of any processor, fewer than registers.
constexpr int kChains = kColumnsAtOnce + 2;

double multiply_add(Index steps, float& sink) {
  Rows chain[kChains];
  const float start = sink;
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) {  // all different: equal ones would be computed once
    chain[c].a = Floats{} + (start + static_cast<float>(c));
    chain[c].b = chain[c].a + 0.25F;
  }
  const Rows factor = Rows{} + 0.5F, summand = Rows{} + (start + 1.0F);
  for (Index i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + summand;
  }
#pragma GCC unroll 16
  for (int c = 1; c < kChains; ++c) chain[0] = chain[0] + chain[c];
  sink = (chain[0].a + chain[0].b)[0];
  return 2.0 * kChains * kLanes * static_cast<double>(steps);
}

float read(const float* from, Index count) {
  const Rows* rows = reinterpret_cast<const Rows*>(from);
  Rows sum[4] = {};
  for (Index i = 0; i + 4 <= count / kLanes; i += 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] = sum[k] + rows[i + k];
  }
  const Rows total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  return (total.a + total.b)[0];
}

void triad(float* to, const float* a, const float* b, float factor, Index count) {
  Rows* out = reinterpret_cast<Rows*>(to);
  const Rows* x = reinterpret_cast<const Rows*>(a);
  const Rows* y = reinterpret_cast<const Rows*>(b);
  for (Index i = 0; i < count / kLanes; ++i) out[i] = x[i] + y[i] * factor;
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE

namespace aq::bench::AQ_TILE_NAMESPACE {

const ProbeLoops loops = {AQ_TILE_NAME, aq::AQ_TILE_NAMESPACE::multiply_add,
                          aq::AQ_TILE_NAMESPACE::read, aq::AQ_TILE_NAMESPACE::triad};

}  // namespace aq::bench::AQ_TILE_NAMESPACE
