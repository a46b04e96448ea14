#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "aq/quant/solver.h"
#include "quant/cpu/cholesky.h"
#include "quant/cpu/hessian_panels.h"
#include "quant/cpu/strips.h"

namespace aq {
namespace {

constexpr int kDampingSteps = 3;  ///< times that damping is raised
constexpr double kDampingFactor = 10;

/// True when one of the values is infinite or not a number.
bool any_not_finite(const float* values, std::size_t count) {
  std::uint32_t worst = 0;  // largest magnitude as bits; from 0x7F800000 on it is not finite
  for (std::size_t i = 0; i < count; ++i) {
    worst = std::max(worst, std::bit_cast<std::uint32_t>(values[i]) & 0x7FFFFFFFU);
  }
  return worst >= 0x7F800000U;
}

/// Reads the diagonal of the sum: mean over live channels, and which are dead.
/// @return false when there is nothing to divide by
bool inspect_diagonal(const WeightedSum& hessian, Factor& factor) {
  double total = 0;
  for (Index i = 0; i < factor.columns; ++i) {
    const HessianPanel panel = hessian_panel(factor.columns, i / kHessianPanel);
    const Index at = panel.row_offset(i) + i - panel.first;
    const double value = hessian.values[static_cast<std::size_t>(at)];
    if (value == 0) ++factor.dead_channels;
    total += value;
  }
  const Index live = factor.columns - factor.dead_channels;
  if (live == 0) return false;
  factor.mean_diagonal = total / hessian.weight_sum / static_cast<double>(live);
  return std::isfinite(factor.mean_diagonal) && factor.mean_diagonal > 0;
}

/// The damped, normalised matrix in reversed order: lower triangle of `[n, n]` row-major.
template <class Real>
void damped_matrix(const WeightedSum& hessian, const Factor& factor, double damping, Real* out) {
  const Index n = factor.columns;
  const Real scale = static_cast<Real>(1 / hessian.weight_sum);
  for (Index j = 0; j < ceil_div(n, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(n, j);
    for (Index r = panel.first; r < n; ++r) {
      const float* from = hessian.values.data() + panel.row_offset(r);
      Real* to = out + r * n + panel.first;
      const Index count = std::min(panel.width, r + 1 - panel.first);
      for (Index c = 0; c < count; ++c) to[c] = static_cast<Real>(from[c]) * scale;
    }
  }
  for (Index i = 0; i < n; ++i) {
    Real& diagonal = out[i * n + i];
    if (diagonal == 0) diagonal = static_cast<Real>(factor.mean_diagonal);
    diagonal += static_cast<Real>(damping * factor.mean_diagonal);
  }
}

/// L of the reversed matrix to U in natural order, as strips: U(i, j) = L(n-1-i, n-1-j).
template <class Real>
void store_strips(const Real* lower, Factor& factor) {
  const Index n = factor.columns;
  factor.u.assign(static_cast<std::size_t>(strips_size(n)), 0.0F);
  constexpr Index kRun = 32;  // rows at a time: short runs of each strip, long runs of each row
  for (Index k0 = 0; k0 < n; k0 += kRun) {
    for (Index s = k0 / kPanel; s < ceil_div(n, kPanel); ++s) {
      float* strip = factor.u.data() + strip_offset(s);
      const Index columns = std::min<Index>(kPanel, n - s * kPanel);
      for (Index k = k0; k < std::min({k0 + kRun, n, (s + 1) * kPanel}); ++k) {
        const Real* row = lower + (n - 1 - k) * n + (n - 1 - s * kPanel);
        const Index first = std::max<Index>(0, k - s * kPanel);
        for (Index c = first; c < columns; ++c) {
          strip[k * kPanel + c] = static_cast<float>(row[-c]);
        }
      }
    }
  }
}

/// Damps, factors and stores; false when the matrix is not positive definite or U is not finite.
template <class Real>
bool try_factor(const WeightedSum& hessian, double damping, std::vector<Real>& square,
                Factor& factor) {
  const auto n = static_cast<std::size_t>(factor.columns);
  if (square.size() < n * n) square.resize(n * n);
  damped_matrix(hessian, factor, damping, square.data());
  if (!cholesky(square.data(), factor.columns)) return false;
  store_strips(square.data(), factor);
  factor.damping = damping;
  return !any_not_finite(factor.u.data(), factor.u.size());
}

/// Memory of a large matrix is not worth keeping.
void release_if_large(std::vector<float>& square) {
  constexpr std::size_t kKeep = std::size_t{1} << 24;  // 64 MiB, 4096 columns
  if (square.size() > kKeep) std::vector<float>().swap(square);
}

Factor not_usable(Factor factor) {
  factor.u.clear();
  factor.damping = 0;
  factor.fallback = Fallback::rtn;
  return factor;
}

/// Damping, more damping, float64; `fallback` says which rung held.
void climb_ladder(const WeightedSum& hessian, double damping, std::vector<float>& square,
                  Factor& factor) {
  double share = damping;
  for (int step = 0; step <= kDampingSteps; ++step, share *= kDampingFactor) {
    if (!try_factor(hessian, share, square, factor)) continue;
    factor.fallback = step == 0 ? Fallback::none : Fallback::more_damping;
    return;
  }
  std::vector<double> square64;
  const bool held = try_factor(hessian, damping, square64, factor);
  factor.fallback = held ? Fallback::float64 : Fallback::rtn;
}

}  // namespace

Factor factorize(const WeightedSum& hessian, Index columns, const GptqSettings& settings) {
  Factor factor;
  factor.columns = columns;
  if (hessian.empty() || hessian.values.empty()) return not_usable(std::move(factor));
  AQ_CHECK(std::ssize(hessian.values) == hessian_size(columns), hessian.values.size(), " floats");
  if (!std::isfinite(hessian.weight_sum) || !(hessian.weight_sum > 0) ||
      any_not_finite(hessian.values.data(), hessian.values.size()) ||
      !inspect_diagonal(hessian, factor)) {
    return not_usable(std::move(factor));
  }
  static thread_local std::vector<float> square;  // kept: fresh pages cost a fifth of the time
  climb_ladder(hessian, settings.damping, square, factor);
  release_if_large(square);
  return factor.usable() ? factor : not_usable(std::move(factor));
}

Matrix factor_upper(const Factor& factor) {
  Matrix upper(factor.columns, factor.columns);
  if (!factor.usable()) return upper;
  for (Index j = 0; j < factor.columns; ++j) {
    const float* strip = factor.u.data() + strip_offset(j / kPanel);
    for (Index i = 0; i <= j; ++i) upper(i, j) = strip[i * kPanel + j % kPanel];
  }
  return upper;
}

std::string_view fallback_name(Fallback fallback) {
  switch (fallback) {
    case Fallback::none:
      return "none";
    case Fallback::more_damping:
      return "more_damping";
    case Fallback::float64:
      return "float64";
    case Fallback::rtn:
      return "rtn";
  }
  return "?";
}

}  // namespace aq
