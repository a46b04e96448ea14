#pragma once
/// Rotary position embedding.

#include <memory>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/model/model.h"

namespace aq::runtime {

/// Angle per position of each pair, [dims / 2]: theta^(-2j/dims), scaled. In fp32 with the order of
/// operations of transformers (modeling_rope_utils.py).
std::vector<float> rope_frequencies(const RopeSpec& spec);

/// magnitude * cosine and sine of the angles of positions 0 .. positions-1.
struct RopeTable {
  RopeSpec spec;
  Index positions = 0;
  std::vector<float> cosine = {};  ///< [positions, dims / 2]
  std::vector<float> sine = {};    ///< the same
};

/// A table with at least `positions` rows. Tables never change; the few used last are kept, since
/// threads ask for the same ones and layers for one of two or three.
std::shared_ptr<const RopeTable> rope_table(const RopeSpec& spec, Index positions);

/// Rotates every head of x [t, heads * head_dim]; row i is position i.
void rotate(const RopeTable& table, Index head_dim, MatrixView<float> x);
/// The transpose of that map: what gradients by rotated heads are by heads.
void rotate_back(const RopeTable& table, Index head_dim, MatrixView<float> x);

}  // namespace aq::runtime
