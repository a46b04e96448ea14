#pragma once
/// What every solver does with a Hessian sum before it factors it.

#include <cstdint>
#include <vector>

#include "aq/quant/solver.h"

namespace aq {

inline constexpr int kDampingSteps = 3;  ///< times that damping is raised
inline constexpr double kDampingFactor = 10;

/// Fills what is known of a sum before it is factored.
/// @return why it cannot be, or none
RtnReason examine(const WeightedSum& sum, Index columns, FactorFacts& facts);

/// The factor of a sum that has none.
Factor not_usable(const FactorFacts& facts, RtnReason reason);

/// λ as a share of the mean diagonal, of a sum whose facts are known, before the ladder.
double damping_of(const FactorFacts& facts, const GptqSettings& settings);

/// The diagonal of the damped matrix from that of the normalised one.
template <class Real>
Real damped(Real diagonal, const FactorFacts& facts, double damping) {
  if (diagonal == 0) diagonal = static_cast<Real>(facts.mean_diagonal);
  return diagonal + static_cast<Real>(damping * facts.mean_diagonal);
}

/// Element (i, j) of the raw sum in natural order.
class NaturalSum {
 public:
  NaturalSum(const WeightedSum& sum, Index columns) : sum_(sum), columns_(columns) {}
  float operator()(Index i, Index j) const;

 private:
  const WeightedSum& sum_;
  Index columns_;
};

/// The diagonal of the damped matrix in natural order, `[columns]`.
std::vector<float> damped_diagonal(const WeightedSum& sum, const FactorFacts& facts,
                                   double damping);

/// Columns by falling diagonal; ties in their own order.
std::vector<std::int32_t> falling_order(const std::vector<float>& diagonal);

}  // namespace aq
