#pragma once
/// Where the arrays of kernels lie: plain pointers into the memory of a device.

#include <bit>
#include <cstdint>

#include "aq/quant/solver.h"
#include "quant/grid_search.h"

namespace aq::cuda {

/// Columns that one block of a row kernel, and one diagonal block of a factor, has at most. Rows of
/// device matrices are a multiple of it apart.
inline constexpr Index kBlock = 128;
/// Columns whose sums over all columns before them are one product.
inline constexpr Index kRun = 512;
/// Rows of a tile of a row kernel: one thread a row.
inline constexpr int kTile = static_cast<int>(kRowTile);

/// bfloat16, nearest even.
AQ_HOST_DEVICE std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FC0;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}
AQ_HOST_DEVICE float from_bf16(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

/// Floats as sums of two bfloat16, the operands of three tensor-core products: 16 bits of mantissa.
struct PairArray {
  std::uint16_t* high = nullptr;
  std::uint16_t* low = nullptr;

  AQ_HOST_DEVICE void set(Index i, float value) const {
    high[i] = to_bf16(value);
    low[i] = to_bf16(value - from_bf16(high[i]));
  }
  AQ_HOST_DEVICE float get(Index i) const { return from_bf16(high[i]) + from_bf16(low[i]); }
  AQ_HOST_DEVICE PairArray from(Index i) const { return {high + i, low + i}; }
};

/// A factor, `n` columns, arrays `[stride, stride]`. Columns beyond n are those of a unit matrix.
struct FactorView {
  /// L = J U J with U U' the damped H and J the reversal: U(i, j) = L(stride-1-i, stride-1-j).
  float* lower = nullptr;
  PairArray upper;                      ///< U', row j holds column j of U
  PairArray h;                          ///< the damped H; only for refinement
  const float* diagonal = nullptr;      ///< of the damped H, `[n]`
  const std::int32_t* order = nullptr;  ///< the column that is rounded i-th; null: as stored
};

/// One task of a batch.
struct TaskView {
  FactorView factor;
  GridSearch grids;
  float fixed_scale = 0, fixed_zero = 0;  ///< per tensor
};

/// Tasks of equal shape and scheme. Arrays of a task lie one behind the other.
struct BatchView {
  const TaskView* tasks = nullptr;
  Index rows = 0;     ///< of a task, a multiple of kTile
  Index columns = 0;  ///< n
  Index stride = 0;   ///< n rounded up to kBlock
  Index group = 0, groups = 0;
  bool has_factor = false;
  bool weighs_columns = false;  ///< errors in a search, with the diagonal of H

  const float* weight = nullptr;   ///< `[rows, stride]`, in the order of rounding
  PairArray error;                 ///< `[rows, stride]`: E = w - q, behind the columns in work
  std::uint16_t* level = nullptr;  ///< `[rows, stride]`: the upper half of the level's float
  float* scale = nullptr;          ///< `[rows, groups]`
  float* zero = nullptr;           ///< `[rows, groups]`
  double* loss = nullptr;          ///< `[rows]`: the squared error in the norm of H
  float* sums = nullptr;           ///< `[rows, run]`: s, or G, of the columns of a run
  PairArray change;                ///< `[rows, run]`: what refining adds to E in a run
  /// `[rows, kTile]`: B of the rows of each tile (output_block()); null: rows do not depend on each
  /// other.
  const float* output = nullptr;
  Index run = 0;  ///< columns of a run at most

  AQ_HOST_DEVICE const float* weights_of_columns(Index task, Index column) const {
    return weighs_columns ? tasks[task].factor.diagonal + column : nullptr;
  }
};

/// Levels are integers of at most 9 bits or values of small floats: exact in bfloat16.
AQ_HOST_DEVICE std::uint16_t short_level(float level) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(level) >> 16);
}

}  // namespace aq::cuda
