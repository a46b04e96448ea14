#pragma once
/// Factors on the CPU.

#include "aq/quant/solver.h"

namespace aq {

/// U and what the row kernel reads beside it.
struct CpuFactor : FactorData {
  FloatArray u;                 ///< strips of kPanel columns, half of the square: see factor_upper
  FloatArray h;                 ///< the damped H in strips of whole columns; only for refinement
  std::vector<float> diagonal;  ///< of the damped H, `[columns]`
  std::vector<std::int32_t> order;  ///< static act-order: the column that is rounded i-th; or empty
};

/// @pre the factor is usable and was made here
inline const CpuFactor& cpu_factor(const Factor& factor) {
  return static_cast<const CpuFactor&>(*factor.data);
}

/// See Solver::factorize. Uses all threads when it is not called from a parallel_for.
Factor factorize(const WeightedSum& hessian, Index columns, const GptqSettings& settings);

/// U as a matrix `[columns, columns]`, zeros below the diagonal. For tests and other solvers.
Matrix factor_upper(const Factor& factor);

}  // namespace aq
