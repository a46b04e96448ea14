#pragma once
/// Rows of a tile side by side, one thread a row.

#include "quant/cuda/block.h"
#include "quant/cuda/views.h"
#include "quant/row_kernel.h"

namespace aq::cuda {

/// Rows lie side by side in shared memory, one row apart so that columns fall into different banks.
inline constexpr int kPitch = kTile + 1;
using TileArray = float[kBlock][kPitch];

/// One row of a TileArray from some column on.
struct RowValues {
  const float (*columns)[kPitch];
  int row;
  AQ_HOST_DEVICE float operator[](Index i) const { return columns[i][row]; }
};

/// `count` columns of a row from column p on, a panel at most, to and from registers.
AQ_HOST_DEVICE void get(const TileArray& from, Index p, int row, int count, float (&to)[kPanel]) {
  AQ_UNROLL
  for (int c = 0; c < kPanel; ++c)
    if (c < count) to[c] = from[p + c][row];
}
AQ_HOST_DEVICE void put(const float (&from)[kPanel], int count, TileArray& to, Index p, int row) {
  AQ_UNROLL
  for (int c = 0; c < kPanel; ++c)
    if (c < count) to[p + c][row] = from[c];
}

/// Where the tile's rows begin in the arrays of a batch.
struct TileRows {
  Index first;  ///< row of the batch: of all tasks, one behind the other
  template <class Block>
  AQ_HOST_DEVICE TileRows(const Block& block, const BatchView& b)
      : first(block.y * b.rows + block.x * kTile) {}
};

}  // namespace aq::cuda
