#include "runtime/vector_loops.h"

#include <array>
#include <bit>
#include <cstdint>

/// Compiles a function for several levels of the processor.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define AQ_FOR_ALL_CPUS \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define AQ_FOR_ALL_CPUS
#endif

namespace aq::runtime {
namespace {

/// Element i of a sum goes to partial sum i % kLanes.
constexpr Index kLanes = 16;
template <class Real>
using Lanes = std::array<Real, kLanes>;

/// The sum of all lanes, in a fixed tree.
template <class Real>
inline Real add_lanes(Lanes<Real> lanes) {
  for (std::size_t width = kLanes / 2; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

/// e^x with a relative error below 2e-7; 0 below -87.3 (no denormals), 2.4e38 above 88.37.
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of the Cephes library (expf.c).
inline float exponential(float x) {
  constexpr float kRound = 0x1.8p23F;  // adding it leaves an integer in the low bits
  const float upper = x > 88.37F ? 88.37F : x;
  const float bounded = upper < -87.3F ? -87.3F : upper;
  const float shifted = bounded * 0x1.715476p0F + kRound;
  const float n = shifted - kRound;
  const float r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float mantissa = p * (r * r) + r + 1.0F;
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  const float result = std::bit_cast<float>(std::bit_cast<std::uint32_t>(mantissa) + exponent);
  return x < -87.3F ? 0.0F : result;
}

inline double weighted_term(float x, float largest, float y) {
  return static_cast<double>(exponential(x - largest)) * (static_cast<double>(x) - y);
}

inline float larger(float a, float b) {
  return a > b ? a : b;
}

}  // namespace

AQ_FOR_ALL_CPUS
double sum_of_squares(const float* x, Index count) {
  Lanes<double> lanes{};
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) {
      const double value = x[i + l];
      lanes[l] += value * value;
    }
  for (Index i = whole; i < count; ++i) {
    const double value = x[i];
    lanes[i - whole] += value * value;
  }
  return add_lanes(lanes);
}

AQ_FOR_ALL_CPUS
float largest_of(const float* values, Index count) {
  Lanes<float> lanes;
  lanes.fill(values[0]);
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) {
      float& lane = lanes[l];
      lane = larger(values[i + l], lane);
    }
  float largest = lanes[0];
  for (const float lane : lanes) largest = larger(lane, largest);
  for (Index i = whole; i < count; ++i) largest = larger(values[i], largest);
  return largest;
}

AQ_FOR_ALL_CPUS
double exponential_sum(const float* x, float largest, Index count) {
  Lanes<double> lanes{};
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) lanes[l] += exponential(x[i + l] - largest);
  for (Index i = whole; i < count; ++i) lanes[i - whole] += exponential(x[i] - largest);
  return add_lanes(lanes);
}

AQ_FOR_ALL_CPUS
double weighted_difference(const float* x, float largest, const float* y, Index count) {
  Lanes<double> lanes{};
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) lanes[l] += weighted_term(x[i + l], largest, y[i + l]);
  for (Index i = whole; i < count; ++i) lanes[i - whole] += weighted_term(x[i], largest, y[i]);
  return add_lanes(lanes);
}

AQ_FOR_ALL_CPUS
float exponentiate(float* x, float scale, float largest, Index count) {
  Lanes<float> lanes{};
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) {
      const float term = exponential(scale * (x[i + l] - largest));
      x[i + l] = term;
      lanes[l] += term;
    }
  for (Index i = whole; i < count; ++i) {
    const float term = exponential(scale * (x[i] - largest));
    x[i] = term;
    lanes[i - whole] += term;
  }
  return add_lanes(lanes);
}

AQ_FOR_ALL_CPUS
void softmax_gradient(const float* p, float scale, float* gradient, Index count) {
  Lanes<float> lanes{};
  const Index whole = count / kLanes * kLanes;
  for (Index i = 0; i < whole; i += kLanes)
    for (Index l = 0; l < kLanes; ++l) lanes[l] += p[i + l] * gradient[i + l];
  for (Index i = whole; i < count; ++i) lanes[i - whole] += p[i] * gradient[i];
  const float mean = add_lanes(lanes);
  for (Index i = 0; i < count; ++i) gradient[i] = p[i] * (gradient[i] - mean) * scale;
}

AQ_FOR_ALL_CPUS
void scale_by(const float* x, float factor, const float* weight, Index count, float* out) {
#pragma GCC ivdep
  for (Index i = 0; i < count; ++i) out[i] = weight[i] * (x[i] * factor);
}

AQ_FOR_ALL_CPUS
void scale(float* x, float factor, Index count) {
  for (Index i = 0; i < count; ++i) x[i] *= factor;
}

AQ_FOR_ALL_CPUS
void clamp(float* x, float limit, Index count) {
  for (Index i = 0; i < count; ++i) {
    const float lower = x[i] < -limit ? -limit : x[i];
    x[i] = lower > limit ? limit : lower;
  }
}

AQ_FOR_ALL_CPUS
void silu_multiply(float* __restrict gate, const float* __restrict up, Index count) {
  for (Index i = 0; i < count; ++i) gate[i] = gate[i] / (1.0F + exponential(-gate[i])) * up[i];
}

AQ_FOR_ALL_CPUS
void clamped_multiply(float* __restrict gate, const float* __restrict up, float limit, float alpha,
                      Index count) {
  for (Index i = 0; i < count; ++i) {
    const float g = gate[i] > limit ? limit : gate[i];
    const float lower = up[i] < -limit ? -limit : up[i];
    const float u = lower > limit ? limit : lower;
    gate[i] = g / (1.0F + exponential(-(alpha * g))) * (u + 1.0F);
  }
}

AQ_FOR_ALL_CPUS
void add(float* __restrict x, const float* __restrict values, Index count) {
  for (Index i = 0; i < count; ++i) x[i] += values[i];
}

AQ_FOR_ALL_CPUS
void add_scaled(float* __restrict x, float factor, const float* __restrict values, Index count) {
  for (Index i = 0; i < count; ++i) x[i] += factor * values[i];
}

AQ_FOR_ALL_CPUS
void rotate(float* __restrict low, float* __restrict high, const float* __restrict cosine,
            const float* __restrict sine, Index count) {
  for (Index j = 0; j < count; ++j) {
    const float a = low[j];
    const float b = high[j];
    low[j] = a * cosine[j] - b * sine[j];
    high[j] = b * cosine[j] + a * sine[j];
  }
}

AQ_FOR_ALL_CPUS
void rotate_pairs(float* __restrict x, const float* __restrict cosine, const float* __restrict sine,
                  Index count) {
  for (Index j = 0; j < count; ++j) {
    const float a = x[2 * j];
    const float b = x[2 * j + 1];
    x[2 * j] = a * cosine[j] - b * sine[j];
    x[2 * j + 1] = b * cosine[j] + a * sine[j];
  }
}

}  // namespace aq::runtime
