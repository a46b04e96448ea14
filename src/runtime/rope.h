#pragma once
/// Rotary position embedding, half-rotate convention.

#include <memory>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/model/model.h"

namespace aq::runtime {

/// Cosines and sines of the angles of positions 0 .. positions-1.
struct RopeTable {
  RopeSpec spec;
  Index head_dim = 0;
  Index positions = 0;
  std::vector<float> cosine = {};  ///< [positions, head_dim / 2]
  std::vector<float> sine = {};    ///< the same
};

/// A table with at least `positions` rows. Tables never change; the one made last is kept, since
/// all layers and threads ask for the same.
std::shared_ptr<const RopeTable> rope_table(const RopeSpec& spec, Index head_dim, Index positions);

/// Rotates every head of x [t, heads * head_dim]; row i is position i.
void rotate(const RopeTable& table, MatrixView<float> x);

}  // namespace aq::runtime
