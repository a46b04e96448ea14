#include <immintrin.h>

#include "bench/probes.h"

namespace aq::bench {

double multiply_add_bf16(Index steps, float& sink) {
  constexpr int kChains = 12;
  constexpr double kFlops = 2 * 2 * 16;  // of one instruction: pairs of products in 16 sums
  __m512 chain[kChains];
  const __m512 start = _mm512_set1_ps(sink);
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) chain[c] = start + static_cast<float>(c);
  const auto a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3C00));  // 2^-7
  const auto b = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3C01));
  for (Index i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chain[c] = _mm512_dpbf16_ps(chain[c], a, b);
  }
#pragma GCC unroll 16
  for (int c = 1; c < kChains; ++c) chain[0] = chain[0] + chain[c];
  sink = chain[0][0];
  return kFlops * kChains * static_cast<double>(steps);
}

}  // namespace aq::bench
