#pragma once
/// What a run keeps of its tasks and matrices.

#include <optional>
#include <string>

#include "aq/core/weighted_sum.h"
#include "aq/report/summary.h"

namespace aq {

/// The sums of one task, on its owner; empty elsewhere.
struct TaskSum {
  WeightedSum sum;                 ///< the Hessian
  WeightedSum cross = {};          ///< Solver::add_cross
  WeightedSum output_factor = {};  ///< add_outputs
  std::string starved = "none";    ///< on every rank
};

/// A whole matrix with its figures.
struct QuantizedRecord {
  std::int64_t task = 0;   ///< index in the stage
  LogRow row;              ///< on every rank
  QuantizedMatrix matrix;  ///< on the rank that writes it; elsewhere without rows
  std::optional<Scheme> activation = std::nullopt;  ///< how its inputs are to be rounded
};

}  // namespace aq
