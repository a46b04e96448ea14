#pragma once
/// The heart of GPTQ for one row and a panel of columns, written once for every processor: `Real`
/// is a float (one row a thread) or a set of vectors (many rows at once); `Levels` says what codes
/// can stand for: integers or the values of a small float.
///
/// With H + λI = U Uᵀ and E = W - Q, the best value of column j once columns before it are fixed is
///   ŵ_j = w_j + s_j / U_jj,   s_j = Σ_{i<j} E_i U_ij
/// which is the column update of GPTQ (Frantar et al. 2022, algorithm 1) written without the
/// inverse: e_j R_jk there is the part of s_k / U_kk that column j brings. The row's squared error
/// in the norm of H + λI is Σ_j ((ŵ_j - q_j) U_jj)².

#include "aq/core/index.h"
#include "quant/grid_search.h"

namespace aq {

/// Columns of a panel, and of a strip of the factor.
inline constexpr int kPanel = 8;

/// The grids of the current group, one a row.
template <class Real>
struct RowGrid {
  Real scale, inverse, zero;  ///< inverse = 1 / scale
};

/// Integers from -zero to top - zero.
struct IntegerLevels {
  float top = 15;
};

/// The level (an integer: code - zero, or a value of the float element) nearest to value / scale:
/// see encode().
template <class Real>
AQ_HOST_DEVICE Real nearest_level(const IntegerLevels& levels, const RowGrid<Real>& grid,
                                  Real value) {
  const float magic = 0x1.8p23F;  // adding and subtracting it rounds to an integer, ties to even
  const Real low = -grid.zero;
  const Real high = low + levels.top;
  const Real position = smaller(larger(value * grid.inverse, low), high);
  return (position + magic) - magic;
}
template <class Real>
AQ_HOST_DEVICE Real nearest_level(const FloatLevels& levels, const RowGrid<Real>& grid,
                                  Real value) {
  return round_to_element(levels, value * grid.inverse);
}

/// Σ weight_i (value_i - round(value_i))² over a group; weights 1 where there are none.
/// @param values  values[i] is a Real
template <class Levels, class Real, class Values>
AQ_HOST_DEVICE Real rounding_error(const Levels& levels, const RowGrid<Real>& grid,
                                   const Values& values, Index count, const float* weights) {
  Real total{};
  for (Index i = 0; i < count; ++i) {
    const Real miss = values[i] - nearest_level(levels, grid, values[i]) * grid.scale;
    total = total + miss * miss * (weights == nullptr ? 1.0F : weights[i]);
  }
  return total;
}

/// The grid of one row's group.
/// @param values   values[i] is a float
/// @param weights  of the columns' errors; null: 1
template <class Levels, class Values>
AQ_HOST_DEVICE RowGrid<float> fit_row(const Levels& levels, const GridSearch& grids,
                                      const Values& values, Index count, const float* weights) {
  float minimum = 0, maximum = 0;
  for (Index i = 0; i < count; ++i) {
    minimum = smaller(values[i], minimum);
    maximum = larger(values[i], maximum);
  }
  const int candidates = candidate_count(grids);
  RowGrid<float> best{};
  float least_error = 0;
  for (int number = 0; number < candidates; ++number) {
    RowGrid<float> grid;
    candidate_grid(grids, number, minimum, maximum, grid.scale, grid.zero);
    grid.inverse = 1 / grid.scale;
    const float error =
        candidates > 1 ? rounding_error(levels, grid, values, count, weights) : 0.0F;
    if (number > 0 && !(least_error - error > 0)) continue;
    best = grid;
    least_error = error;
  }
  return best;
}

/// Rounds columns [first, last) of a panel one after the other.
/// @param sum   s of the panel's columns, complete for columns before `first`; updated
/// @param u     rows and columns of U of this panel, `[kPanel, kPanel]`
/// @param weight  the original weights; becomes E = w - q
/// @param level   receives the level of each column
/// @param miss    receives E U of each column
/// @return the squared error of these columns
template <class Levels, class Real>
AQ_HOST_DEVICE Real solve_panel(const Levels& levels, Real (&sum)[kPanel], const float* u,
                                int first, int last, const RowGrid<Real>& grid, Real* weight,
                                Real (&level)[kPanel], Real (&miss)[kPanel]) {
  Real squared{};
  AQ_UNROLL
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    const float diagonal = u[j * kPanel + j];
    const Real target = weight[j] + sum[j] * (1 / diagonal);
    level[j] = nearest_level(levels, grid, target);
    const Real value = level[j] * grid.scale;
    miss[j] = (target - value) * diagonal;
    squared = squared + miss[j] * miss[j];
    const Real error = weight[j] - value;
    weight[j] = error;
    AQ_UNROLL
    for (int k = j + 1; k < kPanel; ++k) sum[k] = sum[k] + error * u[j * kPanel + k];
  }
  return squared;
}

/// The same for a panel that is not rounded yet: ŵ, to which a grid is fitted.
/// @param shift  receives w - ŵ, which takes the place of E
/// @param values  receives ŵ
template <class Real>
AQ_HOST_DEVICE void explore_panel(Real (&sum)[kPanel], const float* u, int first, int last,
                                  const Real* weight, Real* shift, Real* values) {
  AQ_UNROLL
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    const Real step = sum[j] * (1 / u[j * kPanel + j]);
    values[j] = weight[j] + step;
    shift[j] = -step;
    AQ_UNROLL
    for (int k = j + 1; k < kPanel; ++k) sum[k] = sum[k] - step * u[j * kPanel + k];
  }
}

/// Round to nearest: as solve_panel with s = 0 throughout.
template <class Levels, class Real>
AQ_HOST_DEVICE void round_panel(const Levels& levels, int first, int last,
                                const RowGrid<Real>& grid, Real* weight, Real (&level)[kPanel]) {
  AQ_UNROLL
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    level[j] = nearest_level(levels, grid, weight[j]);
    weight[j] = weight[j] - level[j] * grid.scale;
  }
}

/// Coordinate descent: gives columns [first, last) of a panel, one after the other, the level that
/// is best while all others stay. With g = E H + λE the error of the row changes by
/// d (d H_jj - 2 g_j) when q_j grows by d, so the best q_j is the level nearest to q_j + g_j /
/// H_jj.
/// @param gradient  g of the panel's columns; updated
/// @param h       rows and columns of the damped H of this panel, `[kPanel, kPanel]`
/// @param change  receives what was added to E
/// @return by how much the squared error falls
template <class Levels, class Real>
AQ_HOST_DEVICE Real refine_panel(const Levels& levels, Real (&gradient)[kPanel], const float* h,
                                 int first, int last, const RowGrid<Real>& grid,
                                 Real (&level)[kPanel], Real* change) {
  Real gain{};
  AQ_UNROLL
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    const float diagonal = h[j * kPanel + j];
    const Real target = level[j] * grid.scale + gradient[j] * (1 / diagonal);
    const Real next = nearest_level(levels, grid, target);
    const Real step = (next - level[j]) * grid.scale;
    gain = gain + step * (gradient[j] * 2.0F - step * diagonal);
    level[j] = next;
    change[j] = -step;
    AQ_UNROLL
    for (int k = j + 1; k < kPanel; ++k) gradient[k] = gradient[k] - step * h[j * kPanel + k];
  }
  return gain;
}

/// A scale moves where the error falls by at least this share of what its row has for a group on
/// average. Without the bound twice as many move, each at the cost of all columns of its group, and
/// the error falls by 0.2 % more (docs/fidelity.md).
inline constexpr float kLeastRefitGain = 0.01F;

/// By how much the squared error falls when a group's scale grows by `step`: with l its levels and
/// g its G, along = g l' and square = lHl'.
template <class Real>
AQ_HOST_DEVICE Real refit_gain(const Real& step, const Real& along, const Real& square) {
  return step * (along * 2.0F - step * square);
}

/// What brings a group's scale to its least-squares value in the stored type; 0 where the error
/// would not fall by more than `least_gain`.
AQ_HOST_DEVICE float refit_step(const GridRule& rule, float scale, float along, float square,
                                float least_gain) {
  const float sign = scale < 0 ? -1.0F : 1.0F;
  const float wanted = sign * (scale + along / square);
  if (!(square > 0) || !(wanted > 0)) return 0;
  const float step = sign * stored_scale(rule, wanted) - scale;
  const float gain = refit_gain(step, along, square);
  return gain > 0 && gain > least_gain ? step : 0;
}

}  // namespace aq
