#pragma once
/// The row kernel on a tile of rows, compiled for several instruction sets.

#include <cstdint>

#include "aq/core/index.h"
#include "aq/formats/grid_math.h"

namespace aq {

/// Rows of one matrix to be quantized, and where the result goes.
struct TileJob {
  const float* weight = nullptr;  ///< `[rows, columns]`, rows `stride` floats apart
  Index stride = 0;
  Index rows = 0;  ///< at most kRowTile
  Index columns = 0;
  const float* strips = nullptr;  ///< U in strips (strips.h); null: round to nearest
  GridRule rule;
  int bits = 4;
  Index segment = 128;  ///< columns between fits: the group
  Index block = 128;    ///< a multiple of segment; sums over what lies before are formed at once
  bool fit_whole_row = false;  ///< one grid a row, fitted on the original row
  float fixed_scale = 0;       ///< where positive: one grid for all rows, nothing is fitted
  float fixed_zero = 0;

  std::uint32_t* codes = nullptr;  ///< `[rows, words]`; null: codes and grids are not wanted
  Index words = 0;
  float* scales = nullptr;        ///< `[rows, groups]`, or null when fixed
  std::uint8_t* zeros = nullptr;  ///< the same, or null when symmetric
  Index groups = 0;
  double* error = nullptr;     ///< `[rows]`: squared error in the norm of H + λI
  float* workspace = nullptr;  ///< tile_workspace() floats, 64-byte aligned
};

/// Rows whose norm and round-to-nearest error are wanted.
struct NormJob {
  TileJob rows;                 ///< no results
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
  void (*solve)(const TileJob&);
  void (*norms)(const NormJob&);
  bool (*factor_diagonal)(float* parts, Index n, Index block);
  void (*factor_below)(float* parts, Index n, Index block, Index row);
  void (*add_products)(const HessianJob&);
};

/// The fastest kernel that this processor runs.
const TileKernel& tile_kernel();

/// Floats of workspace for a job: weights, sums of a block, differences of a segment.
constexpr Index tile_workspace(Index columns, Index block, Index segment, Index tile_rows) {
  return tile_rows * (round_up(columns, 8) + round_up(block, 8) + 8 + round_up(segment, 8) + 8);
}

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
