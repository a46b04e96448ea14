#pragma once
/// Rows of matrices as their solvers give them, and how they travel between ranks.

#include <cstddef>
#include <span>
#include <vector>

#include "aq/quant/solver.h"
#include "aq/report/matrix_stats.h"

namespace aq {

/// Rows of one matrix as one rank solved them.
struct SolvedSlice {
  std::int64_t task = 0;    ///< index in the stage
  std::int64_t matrix = 0;  ///< index in the task
  std::int64_t first_row = 0;
  QuantizedMatrix rows;
  std::vector<double> error, error_rtn, norm;  ///< per row, see SolveTask
  Method method = Method::gptq;
  Fallback fallback = Fallback::none;
  double damping = 0;
  double weight_sum = 0;
  std::int64_t tokens = 0;
};

std::vector<std::byte> slices_to_bytes(std::span<const SolvedSlice> slices);
std::vector<SolvedSlice> slices_from_bytes(std::span<const std::byte> bytes);

}  // namespace aq
