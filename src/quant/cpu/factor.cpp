#include "quant/cpu/factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "aq/core/finite.h"
#include "aq/core/parallel.h"
#include "aq/quant/workspace.h"
#include "quant/cpu/aligned_floats.h"
#include "quant/cpu/cholesky.h"
#include "quant/cpu/strips.h"
#include "quant/cpu/tile_kernel.h"
#include "quant/damped_sum.h"
#include "quant/hessian_panels.h"

namespace aq {
namespace {

/// A factor while it is made.
struct Making : FactorFacts, CpuFactor {};

/// The sum with its columns in another order, in the same layout.
WeightedSum reordered(const WeightedSum& hessian, std::span<const std::int32_t> order) {
  const auto n = static_cast<Index>(order.size());
  const NaturalSum sum(hessian, n);
  WeightedSum out;
  out.weight_sum = hessian.weight_sum;
  out.tokens = hessian.tokens;
  out.values.assign(hessian.values.size(), 0.0F);
  parallel_for(ceil_div(n, kHessianPanel), [&](Index p) {
    const HessianPanel panel = hessian_panel(n, p);
    for (Index r = panel.first; r < n; ++r)
      for (Index c = panel.first; c < std::min(panel.first + panel.width, r + 1); ++c)
        out.values[panel.row_offset(r) + c - panel.first] = sum(order[n - 1 - r], order[n - 1 - c]);
  });
  return out;
}

/// The damped matrix in strips of kPanel whole columns, natural order, rows padded with zeros.
FloatArray whole_strips(const WeightedSum& hessian, const FactorFacts& factor, double damping) {
  const Index n = factor.columns;
  const Index strips = ceil_div(n, kPanel);
  const float scale = static_cast<float>(1 / hessian.weight_sum);
  FloatArray h(strips * strips * kPanel * kPanel, 0.0F);
  const auto at = [&](Index row, Index column) -> float& {
    return h[(column / kPanel * strips * kPanel + row) * kPanel + column % kPanel];
  };
  parallel_for(ceil_div(n, kHessianPanel), [&](Index p) {
    const HessianPanel panel = hessian_panel(n, p);
    for (Index r = panel.first; r < n; ++r) {
      const float* row = hessian.values.data() + panel.row_offset(r);
      const Index count = std::min(panel.width, r + 1 - panel.first);
      for (Index c = 0; c < count; ++c) {
        const Index i = n - 1 - r;
        const Index j = n - 1 - panel.first - c;
        at(i, j) = row[c] * scale;
        at(j, i) = row[c] * scale;
      }
    }
  });
  for (Index i = 0; i < n; ++i) at(i, i) = damped(at(i, i), factor, damping);
  return h;
}

/// The damped, normalised matrix in reversed order, in parts of `lanes` rows (cholesky.h).
void fill_parts(const WeightedSum& hessian, const FactorFacts& factor, double damping, Index lanes,
                float* parts) {
  const Index n = factor.columns;
  const float scale = static_cast<float>(1 / hessian.weight_sum);
  parallel_for(ceil_div(n, lanes), [&](Index part) {
    float* out = parts + part_offset(part, lanes);
    const Index first = part * lanes;
    const Index last = std::min(n, first + lanes);
    const Index clear = last - first < lanes ? 0 : first;  // rows beyond n are zeros
    std::fill(out + clear * lanes, out + (first + lanes) * lanes, 0.0F);
    constexpr Index kRun = 16;  // a run of columns stays in the first-level cache
    for (Index c0 = 0; c0 < last; c0 += kRun) {
      const HessianPanel panel = hessian_panel(n, c0 / kHessianPanel);
      for (Index r = std::max(first, c0); r < last; ++r) {
        const float* from = hessian.values.data() + panel.row_offset(r) + c0 - panel.first;
        float* to = out + c0 * lanes + r - first;
        const Index count = std::min(kRun, r + 1 - c0);
        for (Index c = 0; c < count; ++c) to[c * lanes] = from[c] * scale;
      }
    }
    for (Index r = first; r < last; ++r) {
      float& diagonal = out[r * lanes + r - first];
      diagonal = damped(diagonal, factor, damping);
    }
  });
}

/// L in parts to U in natural order, as strips: U(i, j) = L(n-1-i, n-1-j).
void store_strips(const float* parts, Index lanes, Making& factor) {
  const Index n = factor.columns;
  factor.u.assign(strips_size(n), 0.0F);
  parallel_for(ceil_div(n, kPanel), [&](Index s) {
    float* strip = factor.u.data() + strip_offset(s);
    const Index columns = std::min<Index>(kPanel, n - s * kPanel);
    const Index first_row = n - s * kPanel - columns;  // of L: rows from there on are in the strip
    for (Index part = first_row / lanes; part * lanes < n; ++part) {
      const float* from = parts + part_offset(part, lanes) - part * lanes;
      const Index end = std::min(n, (part + 1) * lanes);
      for (Index c = 0; c < columns; ++c) {
        const Index column = n - 1 - s * kPanel - c;
        float* to = strip + (n - 1) * kPanel + c;
        for (Index r = std::max(part * lanes, column); r < end; ++r) {
          to[-r * kPanel] = from[column * lanes + r];
        }
      }
    }
  });
}

/// The same matrix in float64: lower triangle of `[n, n]` row-major.
void fill_square(const WeightedSum& hessian, const FactorFacts& factor, double damping,
                 double* out) {
  const Index n = factor.columns;
  const double scale = 1 / hessian.weight_sum;
  for (Index j = 0; j < ceil_div(n, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(n, j);
    for (Index r = panel.first; r < n; ++r) {
      const float* from = hessian.values.data() + panel.row_offset(r);
      double* to = out + r * n + panel.first;
      const Index count = std::min(panel.width, r + 1 - panel.first);
      for (Index c = 0; c < count; ++c) to[c] = from[c] * scale;
    }
  }
  for (Index i = 0; i < n; ++i) out[i * n + i] = damped(out[i * n + i], factor, damping);
}

void store_strips(const double* lower, Making& factor) {
  const Index n = factor.columns;
  factor.u.assign(strips_size(n), 0.0F);
  for (Index j = 0; j < n; ++j) {
    float* strip = factor.u.data() + strip_offset(j / kPanel);
    for (Index i = 0; i <= j; ++i) {
      const double value = lower[(n - 1 - i) * n + n - 1 - j];
      strip[i * kPanel + j % kPanel] = static_cast<float>(value);
    }
  }
}

/// Damps, factors and stores; false when the matrix is not positive definite or U is not finite.
bool try_float(const WeightedSum& hessian, double damping, Making& factor) {
  const Index lanes = tile_kernel().lanes;
  // Kept by the thread: fresh pages would cost a fifth of the time.
  static thread_local AlignedFloats memory;
  float* parts = memory.take(parts_size(factor.columns, lanes));
  fill_parts(hessian, factor, damping, lanes, parts);
  const bool positive = cholesky(parts, factor.columns);
  if (positive) store_strips(parts, lanes, factor);
  memory.release_above(kKeptWorkspaceBytes / static_cast<Index>(sizeof(float)));
  factor.damping = damping;
  return positive && all_finite(factor.u);
}

bool try_double(const WeightedSum& hessian, double damping, Making& factor) {
  std::vector<double> square(factor.columns * factor.columns);
  fill_square(hessian, factor, damping, square.data());
  if (!cholesky(square.data(), factor.columns)) return false;
  store_strips(square.data(), factor);
  factor.damping = damping;
  return all_finite(factor.u);
}

/// Damping, more damping, float64; `fallback` says which rung held.
void climb_ladder(const WeightedSum& hessian, double damping, Making& factor) {
  double share = damping;
  for (int step = 0; step <= kDampingSteps; ++step, share *= kDampingFactor) {
    if (!try_float(hessian, share, factor)) continue;
    factor.fallback = step == 0 ? Fallback::none : Fallback::more_damping;
    return;
  }
  const bool held = try_double(hessian, damping, factor);
  factor.fallback = held ? Fallback::float64 : Fallback::rtn;
}

}  // namespace

Factor factorize(const WeightedSum& hessian, Index columns, const GptqSettings& settings) {
  Making factor;
  const RtnReason reason = examine(hessian, columns, factor);
  if (reason != RtnReason::none) return not_usable(factor, reason);
  const double damping = damping_of(factor, settings);
  if (settings.act_order == ActOrder::fixed) {
    factor.order = falling_order(damped_diagonal(hessian, factor, damping));
    climb_ladder(reordered(hessian, factor.order), damping, factor);
  } else {
    climb_ladder(hessian, damping, factor);
  }
  if (!factor.usable()) return not_usable(factor, RtnReason::not_definite);
  factor.diagonal = damped_diagonal(hessian, factor, factor.damping);
  if (settings.refine > 0) factor.h = whole_strips(hessian, factor, factor.damping);
  const FactorFacts& facts = factor;
  return {facts, std::make_shared<CpuFactor>(std::move(factor))};
}

Matrix factor_upper(const Factor& factor) {
  Matrix upper(factor.columns, factor.columns);
  if (!factor.usable()) return upper;
  for (Index j = 0; j < factor.columns; ++j) {
    const float* strip = cpu_factor(factor).u.data() + strip_offset(j / kPanel);
    for (Index i = 0; i <= j; ++i) upper(i, j) = strip[i * kPanel + j % kPanel];
  }
  return upper;
}

}  // namespace aq
