/// Cholesky factorisation A = L Lᵀ with the multiply-adds of the row kernel: left-looking by blocks
/// of columns. L is kept as sets of kLanes rows side by side (cholesky.h), which serve as the
/// vectors of one product and the scalars of the next.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

constexpr int kBlockParts = kFactorBlock / kLanes;
constexpr int kBlockPanels = kFactorBlock / kPanel;

/// s of a block's columns for the parts that are worked on together.
struct FactorSums {
  Rows of[kBlockParts][kFactorBlock];
};

AQ_INLINE Rows* factor_part(float* parts, Index i) {
  return reinterpret_cast<Rows*>(parts + part_offset(i, kLanes));
}

/// Row `column` of L as scalars: element k is at [k * kLanes].
AQ_INLINE const float* factor_row(float* parts, Index column) {
  return parts + part_offset(column / kLanes, kLanes) + column % kLanes;
}

/// Σ_{k < block} L_rk L_ck for the rows of parts [first, first + count) and the block's columns c.
void form_factor_sums(float* parts, Index n, Index block, Index first, int count,
                      FactorSums& sums) {
  for (int p = 0; p < count; ++p) {
    for (int c = 0; c < kFactorBlock; ++c) sums.of[p][c] = Rows{};
  }
  const Index end = least(n, block + kFactorBlock);
  for (Index k = 0; k < block; k += kDepth) {
    const Index k_end = least(block, k + kDepth);
    for (Index c = block; c < end; c += kPanel) {
      const float* row = factor_row(parts, c);
      const float* ahead = factor_row(parts, least(c + kPanel, end - 1)) + k * kLanes;
      Rows* sum = sums.of[0] + (c - block);
      accumulate<kLanes>(factor_part(parts, first), row, k, k_end, sum, ahead);
      for (int p = 1; p < count; ++p) {
        accumulate<kLanes>(factor_part(parts, first + p), row, k, k_end, sums.of[p] + (c - block));
      }
    }
  }
}

/// Columns [c, c + kPanel) of one part: l_j = (a_j - s_j) / L_jj.
/// @param diagonal  the part that holds rows c ...: L_jj is formed from it
/// @return false where a pivot is not positive
bool factor_panel(float* parts, Index n, Index block, Index c, Index part, bool diagonal,
                  FactorSums& sums, Index first) {
  Rows* tile = factor_part(parts, part);
  const float* row = factor_row(parts, c);
  Rows sum[kPanel];
  for (int j = 0; j < kPanel; ++j) sum[j] = sums.of[part - first][c - block + j];
  accumulate<kLanes>(tile, row, block, c, sum);
  const int width = static_cast<int>(least(kPanel, n - c));
  for (int j = 0; j < width; ++j) {
    Rows value = tile[c + j] - sum[j];
    float pivot = row[(c + j) * kLanes + j];
    if (diagonal) {
      const float squared = lanes(value)[(c + j) % kLanes];
      if (!(squared > 0)) return false;
      pivot = __builtin_sqrtf(squared);
    }
    value = value * (1 / pivot);
    if (diagonal) lanes(value)[(c + j) % kLanes] = pivot;
    tile[c + j] = value;
    for (int k = j + 1; k < kPanel; ++k) sum[k] = sum[k] + value * row[(c + j) * kLanes + k];
  }
  return true;
}

/// The rows of the block itself.
bool factor_diagonal(float* parts, Index n, Index block) {
  const Index first = block / kLanes;
  const Index end = least(n, block + kFactorBlock);
  const Index last = (end + kLanes - 1) / kLanes;
  FactorSums sums;
  form_factor_sums(parts, n, block, first, static_cast<int>(last - first), sums);
  for (Index c = block; c < end; c += kPanel) {
    for (Index part = c / kLanes; part < last; ++part) {
      if (!factor_panel(parts, n, block, c, part, part == c / kLanes, sums, first)) return false;
    }
  }
  return true;
}

/// The block's columns of the rows [row, row + kFactorBlock) below it.
void factor_below(float* parts, Index n, Index block, Index row) {
  const Index first = row / kLanes;
  const Index last = (least(n, row + kFactorBlock) + kLanes - 1) / kLanes;
  FactorSums sums;
  form_factor_sums(parts, n, block, first, static_cast<int>(last - first), sums);
  for (Index c = block; c < least(n, block + kFactorBlock); c += kPanel) {
    for (Index part = first; part < last; ++part) {
      factor_panel(parts, n, block, c, part, false, sums, first);
    }
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
