#pragma once
/// Rows of matrices as their solvers give them, and how they travel between ranks.

#include <cstddef>
#include <span>
#include <vector>

#include "aq/model/model.h"
#include "aq/quant/solver.h"
#include "aq/report/matrix_stats.h"

namespace aq {

/// Rows of one matrix as one rank solved them.
struct SolvedSlice {
  std::int64_t task = 0;    ///< index in the stage
  std::int64_t matrix = 0;  ///< index in the task
  std::int64_t first_row = 0;
  QuantizedMatrix rows;
  std::vector<double> error, error_rtn, norm;     ///< per row, see SolveTask
  std::vector<double> weight_error, weight_norm;  ///< of tiles of kRowTile rows, see SolveTask
  Method method = Method::gptq;
  Fallback fallback = Fallback::none;
  RtnReason rtn_reason = RtnReason::none;
  std::int64_t scales_above = 0, scales_below = 0;  ///< see SolveTask
  double damping = 0;
  double weight_sum = 0;
  std::int64_t tokens = 0;
};

/// What was done with a slice by this factor. Errors of rows that overflowed make it round to
/// nearest, whatever the factor.
void describe(const Factor& factor, SolvedSlice& slice);
/// The same of a whole matrix: some rows may have overflowed on one rank alone.
void describe_alike(std::span<SolvedSlice> slices);
/// Adds the counts of a matrix to its figures; any makes it a fallback.
void add_scales(std::span<const SolvedSlice> slices, MatrixStats& stats);
/// Says that the matrix has such scales.
void warn_of_scales(const LinearSpec& linear, const MatrixStats& stats);
/// Says why the matrix is rounded where GPTQ was asked for; nothing where no token reached it.
void warn_of_rtn(const LinearSpec& linear, RtnReason reason);

std::vector<std::byte> slices_to_bytes(std::span<const SolvedSlice> slices);
std::vector<SolvedSlice> slices_from_bytes(std::span<const std::byte> bytes);

}  // namespace aq
