/// Sums of products XᵀX with the multiply-adds of the row kernel. An element's tokens are summed in
/// their order in short chains, and the chains are added one by one: the error is several times
/// smaller than that of one long chain.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

constexpr Index kChain = 128;  ///< tokens

/// A small block of the sum: kPanel rows of at most kLanes columns.
struct HessianTile {
  float* values;
  Index stride;
  int rows, columns;
};

AQ_INLINE void fetch_tile(const HessianTile& tile) {
  for (int r = 0; r < tile.rows; ++r) {
    const float* row = tile.values + r * tile.stride;
    __builtin_prefetch(row);
    __builtin_prefetch(row + tile.columns - 1);
  }
}

AQ_INLINE void add_tile(const HessianTile& tile, Rows* sum) {
  for (int r = 0; r < tile.rows; ++r) {
    float* row = tile.values + r * tile.stride;
    if (tile.columns == kLanes) {
      Rows before;
      __builtin_memcpy(&before, row, sizeof(Rows));
      before = before + sum[r];
      __builtin_memcpy(row, &before, sizeof(Rows));
    } else {
      for (int c = 0; c < tile.columns; ++c) row[c] += lanes(sum[r])[c];
    }
  }
}

/// Rows [first_row, last_row) of one panel.
void add_products(const HessianJob& job) {
  const Index blocks = (job.width + kLanes - 1) / kLanes;
  const auto tile_at = [&](Index r, Index block) {
    const Index c = block * kLanes;
    return HessianTile{job.values + (r - job.first_column) * job.width + c, job.width,
                       static_cast<int>(least(kPanel, job.last_row - r)),
                       static_cast<int>(least(kLanes, job.width - c))};
  };
  const auto packed = [&](Index column) {
    return job.packed + column / kLanes * kLanes * job.tokens + column % kLanes;
  };
  for (Index r = job.first_row; r < job.last_row; r += kPanel) {
    const float* scalars = packed(r);
    for (Index block = 0; block < blocks; ++block) {
      const Index column = job.first_column + block * kLanes;
      if (column >= r + kPanel) break;  // above the diagonal
      const HessianTile tile = tile_at(r, block);
      if (block + 1 < blocks) {
        fetch_tile(tile_at(r, block + 1));
      } else if (r + kPanel < job.last_row) {
        fetch_tile(tile_at(r + kPanel, 0));
      }
      Rows sum[kPanel] = {};
      const Rows* vectors = reinterpret_cast<const Rows*>(packed(column));
      for (Index t = 0; t < job.tokens; t += kChain) {
        Rows chain[kPanel] = {};
        accumulate<kLanes>(vectors, scalars, t, least(job.tokens, t + kChain), chain);
        for (int c = 0; c < kPanel; ++c) sum[c] = sum[c] + chain[c];
      }
      add_tile(tile, sum);
    }
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
