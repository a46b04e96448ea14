#pragma once
/// The row kernel on a tile of rows, compiled for several instruction sets.

#include <cstdint>

#include "aq/core/index.h"
#include "quant/grid_search.h"

namespace aq {

/// Rows of one matrix to be quantized, and where the result goes.
struct TileJob {
  const float* weight = nullptr;  ///< `[rows, columns]`, rows `stride` floats apart
  Index stride = 0;
  Index rows = 0;  ///< at most kRowTile
  Index columns = 0;
  const float* strips = nullptr;        ///< U in strips (strips.h); null: round to nearest
  const std::int32_t* order = nullptr;  ///< the column that is rounded i-th; null: as stored
  GridSearch grids;
  Element element = Element::integer;
  int bits = 4;

  Index group = 128;  ///< columns that share a grid
  Index groups = 1;
  bool fit_first = false;  ///< grids are fitted on the original weights, before the first column
  float fixed_scale = 0;   ///< where positive: one grid for all rows, nothing is fitted
  float fixed_zero = 0;
  const float* column_weight = nullptr;  ///< `[columns]`: of errors in a search; null: 1

  Index segment = 128;  ///< columns that are rounded in one go: the group where it is fitted there
  Index block = 128;    ///< a multiple of segment; sums over what lies before are formed at once

  const float* h = nullptr;  ///< the damped H in strips of whole columns; null: no refinement
  int sweeps = 0;
  int coupled_sweeps = 0;  ///< after them, under the output factor
  /// `[kRowTile, kRowTile]`, symmetric, positive definite; 1 on the diagonal and 0 beside it in
  /// rows beyond the last.
  const float* output_factor = nullptr;
  bool refit = false;  ///< scales are free: refitted before the codes of their group

  std::uint32_t* codes = nullptr;  ///< `[rows, words]`; null: codes and grids are not wanted
  Index words = 0;
  float* scales = nullptr;        ///< `[rows, groups]`, or null when fixed
  std::uint8_t* zeros = nullptr;  ///< the same, or null when symmetric
  double* error = nullptr;        ///< `[rows]`: squared error in the norm of H + λI
  float* workspace = nullptr;     ///< workspace_floats() of them, 64-byte aligned
};

/// Rows whose norm and round-to-nearest error are wanted.
struct NormJob {
  TileJob rows;                 ///< no results
  TileJob rounding;             ///< the same rows without a factor
  double* norm = nullptr;       ///< `[rows]`: ‖wU‖²
  double* error_rtn = nullptr;  ///< `[rows]`: ‖(w - round(w))U‖²
};

/// A part of a panel of a Hessian sum (hessian.h) and what is added to it.
struct HessianJob {
  /// Inputs: sets of `lanes` columns, each `[tokens, lanes]`; zeros beyond the last column.
  const float* packed = nullptr;
  Index tokens = 0;
  Index first_column = 0;  ///< of the panel
  Index width = 0;         ///< columns of the panel
  Index first_row = 0;     ///< multiple of 8
  Index last_row = 0;
  float* values =
      nullptr;  ///< the panel: element (r, c) at (r - first_column) * width + c - first_column
};

/// What is compiled for several instruction sets. Factor functions: see cholesky.h.
struct TileKernel {
  const char* name;
  int lanes;  ///< rows side by side
  Index (*workspace_floats)(const TileJob&);
  void (*solve)(const TileJob&);
  void (*norms)(const NormJob&);
  bool (*factor_diagonal)(float* parts, Index n, Index block);
  void (*factor_below)(float* parts, Index n, Index block, Index row);
  void (*add_products)(const HessianJob&);
};

/// The fastest kernel that this processor runs.
const TileKernel& tile_kernel();

namespace tile_baseline {
extern const TileKernel kernel;
}
namespace tile_v3 {
extern const TileKernel kernel;
}
namespace tile_v4 {
extern const TileKernel kernel;
}

}  // namespace aq
