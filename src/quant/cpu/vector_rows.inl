/// Rows side by side in two vectors. Every tile_kernel_*.cpp compiles this file for its own
/// instruction set, in a namespace of its own (AQ_TILE_NAMESPACE), so that no function is shared
/// between instruction sets. Nothing of the standard library is called, for the same reason.

#include <cstdint>

#include "aq/core/index.h"
#include "quant/row_kernel.h"

namespace aq::AQ_TILE_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kColumnsAtOnce = 8;  ///< accumulators: 2 vectors x columns, of 32 registers
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kColumnsAtOnce = 4;  ///< of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kColumnsAtOnce = 4;
#endif
constexpr int kVectorLanes = kVectorBytes / 4;
constexpr int kLanes = 2 * kVectorLanes;  ///< rows worked on together

using Floats = float __attribute__((vector_size(kVectorBytes), may_alias));
using Ints = std::int32_t __attribute__((vector_size(kVectorBytes)));
using Unsigned = std::uint32_t __attribute__((vector_size(kVectorBytes)));
using Shorts = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));

/// kLanes rows of one column.
struct Rows {
  Floats a, b;
};

#define AQ_INLINE static inline __attribute__((always_inline))

AQ_INLINE Rows operator+(Rows x, Rows y) {
  return {x.a + y.a, x.b + y.b};
}
AQ_INLINE Rows operator-(Rows x, Rows y) {
  return {x.a - y.a, x.b - y.b};
}
AQ_INLINE Rows operator*(Rows x, Rows y) {
  return {x.a * y.a, x.b * y.b};
}
AQ_INLINE Rows operator+(Rows x, float y) {
  return {x.a + y, x.b + y};
}
AQ_INLINE Rows operator-(Rows x, float y) {
  return {x.a - y, x.b - y};
}
AQ_INLINE Rows operator*(Rows x, float y) {
  return {x.a * y, x.b * y};
}
AQ_INLINE Rows operator-(Rows x) {
  return {-x.a, -x.b};
}
AQ_INLINE Rows smaller(Rows x, Rows y) {
  return {x.a < y.a ? x.a : y.a, x.b < y.b ? x.b : y.b};
}
AQ_INLINE Rows larger(Rows x, Rows y) {
  return {x.a > y.a ? x.a : y.a, x.b > y.b ? x.b : y.b};
}
AQ_INLINE Rows smaller(Rows x, float y) {
  return {x.a < y ? x.a : y - Floats{}, x.b < y ? x.b : y - Floats{}};
}
AQ_INLINE Rows larger(Rows x, float y) {
  return {x.a > y ? x.a : y - Floats{}, x.b > y ? x.b : y - Floats{}};
}
/// x where `test` > 0, else y.
AQ_INLINE Rows where_positive(Rows test, Rows x, Rows y) {
  return {test.a > 0 ? x.a : y.a, test.b > 0 ? x.b : y.b};
}
AQ_INLINE Floats power_part(Floats x) {
  return (Floats)((Ints)x & 0x7F800000);
}
AQ_INLINE Rows power_part(Rows x) {
  return {power_part(x.a), power_part(x.b)};
}
AQ_INLINE Floats with_sign(Floats magnitude, Floats x) {
  return (Floats)((Ints)magnitude | ((Ints)x & static_cast<std::int32_t>(0x80000000U)));
}
AQ_INLINE Rows with_sign(Rows magnitude, Rows x) {
  return {with_sign(magnitude.a, x.a), with_sign(magnitude.b, x.b)};
}
AQ_INLINE Rows divide(Rows x, Rows y) {
  return {x.a / y.a, x.b / y.b};
}
AQ_INLINE float* lanes(Rows& x) {
  return reinterpret_cast<float*>(&x);
}

/// kLanes floats that 16 bits hold exactly (bf16): the levels of a column.
struct ShortRows {
  Shorts a, b;
};
AQ_INLINE Shorts shorten(Floats x) {
  return __builtin_convertvector((Unsigned)x >> 16, Shorts);
}
AQ_INLINE ShortRows shorten(Rows x) {
  return {shorten(x.a), shorten(x.b)};
}
AQ_INLINE Floats lengthen(Shorts x) {
  return (Floats)(__builtin_convertvector(x, Unsigned) << 16);
}
AQ_INLINE Rows lengthen(ShortRows x) {
  return {lengthen(x.a), lengthen(x.b)};
}

/// Columns (k) that are multiplied before the next strip: they stay in the second-level cache.
constexpr Index kDepth = 256;

constexpr Index least(Index a, Index b) {
  return a < b ? a : b;
}

/// sum[c] += Σ_k tile[k] * u[k][c] for k in [begin, end): the product that takes nearly all time.
/// Every element is one chain of multiply-adds in order of k, whatever the calls it is cut into.
/// @param tile  `[columns]` of Rows
/// @param u  scalars: kPanel for each k, `stride` floats apart
/// @param ahead  scalars of the next product, brought into the cache meanwhile; or null
template <int stride>
AQ_INLINE void accumulate(const Rows* tile, const float* u, Index begin, Index end, Rows* sum,
                          const float* ahead = nullptr) {
#pragma GCC unroll 2
  for (int first = 0; first < kPanel; first += kColumnsAtOnce) {
    Rows part[kColumnsAtOnce];
#pragma GCC unroll 8
    for (int c = 0; c < kColumnsAtOnce; ++c) part[c] = sum[first + c];
    for (Index k = begin; k < end; ++k) {
      const Rows row = tile[k];
      const float* factor = u + k * stride + first;
      if (ahead != nullptr && first == 0) __builtin_prefetch(ahead + (k - begin) * stride);
#pragma GCC unroll 8
      for (int c = 0; c < kColumnsAtOnce; ++c) part[c] = part[c] + row * factor[c];
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumnsAtOnce; ++c) sum[first + c] = part[c];
  }
}

}  // namespace aq::AQ_TILE_NAMESPACE
