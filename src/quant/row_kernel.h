#pragma once
/// The heart of GPTQ for one row and a panel of columns, written once for every processor: `Real`
/// is a float (one row a thread) or a set of vectors (many rows at once).
///
/// With H + λI = U Uᵀ and E = W - Q, the best value of column j once columns before it are fixed is
///   ŵ_j = w_j + s_j / U_jj,   s_j = Σ_{i<j} E_i U_ij
/// which is the column update of GPTQ (Frantar et al. 2022, algorithm 1) written without the
/// inverse: e_j R_jk there is the part of s_k / U_kk that column j brings. The row's squared error
/// in the norm of H + λI is Σ_j ((ŵ_j - q_j) U_jj)².

#include "aq/formats/grid_math.h"

namespace aq {

/// Columns of a panel, and of a strip of the factor.
inline constexpr int kPanel = 8;

/// The grids of the current group, one a row.
template <class Real>
struct RowGrid {
  Real scale, inverse, zero;  ///< inverse = 1 / scale
};

/// Steps from the grid's zero, code - zero, nearest to `value`: see encode().
template <class Real>
AQ_HOST_DEVICE Real nearest_level(const RowGrid<Real>& grid, float top, Real value) {
  const float magic = 0x1.8p23F;  // adding and subtracting it rounds to an integer, ties to even
  const Real low = -grid.zero;
  const Real high = low + top;
  const Real position = smaller(larger(value * grid.inverse, low), high);
  return (position + magic) - magic;
}

/// Rounds columns [first, last) of a panel one after the other.
/// @param sum   s of the panel's columns, complete for columns before `first`; updated
/// @param u     rows and columns of U of this panel, `[kPanel, kPanel]`
/// @param weight  the original weights; becomes E = w - q
/// @param level   code - zero of each column
/// @return the squared error of these columns
template <class Real>
AQ_HOST_DEVICE Real solve_panel(Real (&sum)[kPanel], const float* u, int first, int last,
                                const RowGrid<Real>& grid, float top, Real* weight,
                                Real (&level)[kPanel]) {
  Real squared{};
#pragma GCC unroll 8
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    const float diagonal = u[j * kPanel + j];
    const Real target = weight[j] + sum[j] * (1 / diagonal);
    level[j] = nearest_level(grid, top, target);
    const Real value = level[j] * grid.scale;
    const Real miss = (target - value) * diagonal;
    squared = squared + miss * miss;
    const Real error = weight[j] - value;
    weight[j] = error;
#pragma GCC unroll 8
    for (int k = j + 1; k < kPanel; ++k) sum[k] = sum[k] + error * u[j * kPanel + k];
  }
  return squared;
}

/// The same for a panel that is not rounded yet: the range of ŵ, from which a grid is fitted.
/// @param shift  receives w - ŵ, which takes the place of E
template <class Real>
AQ_HOST_DEVICE void explore_panel(Real (&sum)[kPanel], const float* u, int first, int last,
                                  const Real* weight, Real* shift, Real& minimum, Real& maximum) {
#pragma GCC unroll 8
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    const Real step = sum[j] * (1 / u[j * kPanel + j]);
    const Real target = weight[j] + step;
    minimum = smaller(target, minimum);
    maximum = larger(target, maximum);
    shift[j] = -step;
#pragma GCC unroll 8
    for (int k = j + 1; k < kPanel; ++k) sum[k] = sum[k] - step * u[j * kPanel + k];
  }
}

/// Round to nearest: as solve_panel with s = 0 throughout.
template <class Real>
AQ_HOST_DEVICE void round_panel(int first, int last, const RowGrid<Real>& grid, float top,
                                Real* weight, Real (&level)[kPanel]) {
#pragma GCC unroll 8
  for (int j = 0; j < kPanel; ++j) {
    if (j < first || j >= last) continue;
    level[j] = nearest_level(grid, top, weight[j]);
    weight[j] = weight[j] - level[j] * grid.scale;
  }
}

}  // namespace aq
