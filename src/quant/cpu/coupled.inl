/// Refinement of the rows of a tile together, under an output factor B (output_factor.h): sweeps as
/// in refine.inl that lower tr(B E H Eᵀ), in which a row's best code depends on the errors of the
/// others. G = E H is kept up to date as there; the gradient Γ = B G is formed where it is needed.
/// Rows change one after the other.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

/// Row k of B, for the rows of a part.
AQ_INLINE Rows factor_row(const TileJob& job, int k, int part) {
  Rows rows;
  const Index at = Index{k} * kTileRows + Index{part} * kLanes;
  __builtin_memcpy(&rows, job.output_factor + at, sizeof(rows));
  return rows;
}

/// A column, or a panel of them, of all rows.
using TileColumn = Rows[kParts];
using TilePanel = Rows[kParts][kPanel];

AQ_INLINE float& lane_of(TileColumn& column, int row) {
  return lanes(column[row / kLanes])[row % kLanes];
}

/// What belongs to all rows while a group is in work.
struct CoupledGroup {
  Tile& tile;
  Index group, begin, end;
  TileColumn inverse_curvature;  ///< 1 / the diagonal of B

  CoupledGroup(Tile& of, Index first, Index last)
      : tile(of), group(first / of.job.group), begin(first), end(last) {
    for (int r = 0; r < rows(); ++r) lane_of(inverse_curvature, r) = 1 / curvature(r);
  }
  int rows() const { return tile.count * kLanes; }
  float curvature(Index row) const { return tile.job.output_factor[row * (kTileRows + 1)]; }
  GroupWork part(int p) const { return group_work(tile, p, begin, end); }
};

/// Γ = B G of a panel.
void couple(const CoupledGroup& of, TilePanel& gradient, TilePanel& coupled) {
  for (int p = 0; p < of.tile.count; ++p)
    for (int first = 0; first < kPanel; first += kColumnsAtOnce) {
      Rows sum[kColumnsAtOnce] = {};
      for (int k = 0; k < of.rows(); ++k) {
        const Rows factor = factor_row(of.tile.job, k, p);
        Rows* row = gradient[k / kLanes] + first;
#pragma GCC unroll 8
        for (int c = 0; c < kColumnsAtOnce; ++c)
          sum[c] = sum[c] + factor * lanes(row[c])[k % kLanes];
      }
#pragma GCC unroll 8
      for (int c = 0; c < kColumnsAtOnce; ++c) coupled[p][first + c] = sum[c];
    }
}

/// G of a panel's columns, with what the codes of the group's columns before `first` changed.
void take_gradient(const CoupledGroup& of, Index panel, Index first, TilePanel& gradient) {
  for (int p = 0; p < of.tile.count; ++p) {
    Part& part = of.tile.parts[p];
    for (int c = 0; c < kPanel; ++c) gradient[p][c] = part.tile[panel * kPanel + c];
    accumulate<kPanel>(part.change, h_strip(of.tile.job, panel), of.begin, first, gradient[p]);
  }
}

/// Σ Γ l of the group, per row.
void measure_coupled(const CoupledGroup& of, TileColumn& along) {
  for (int p = 0; p < of.tile.count; ++p) along[p] = Rows{};
  for (Index s = of.begin / kPanel; s < panels(of.end); ++s) {
    TilePanel gradient, coupled;
    take_gradient(of, s, of.begin, gradient);
    couple(of, gradient, coupled);
    for (int p = 0; p < of.tile.count; ++p) {
      const GroupWork work = of.part(p);
      for (int c = 0; c < kPanel; ++c) {
        const Index column = s * kPanel + c;
        if (column < of.begin || column >= of.end) continue;
        along[p] = along[p] + coupled[p][c] * work.level[column - of.begin];
      }
    }
  }
}

/// The row's step of its scale changes Σ Γ l of all rows.
void add_step(const CoupledGroup& of, int row, float step, TileColumn& along) {
  Rows* image = of.part(row / kLanes).image;
  for (int p = 0; p < of.tile.count; ++p) {
    const Rows* level = of.part(p).level;
    Rows shared{};
    for (Index at = 0; at < of.end - of.begin; ++at)
      shared = shared + level[at] * lanes(image[at])[row % kLanes];
    along[p] = along[p] - factor_row(of.tile.job, row, p) * (shared * step);
  }
}

/// Refits the scales of the group, see refit_scale(). @return whether any has moved
bool refit_coupled(const CoupledGroup& of) {
  Tile& tile = of.tile;
  Slope slope[kParts];
  TileColumn along, steps = {};
  for (int p = 0; p < tile.count; ++p) slope[p] = measure_scale(of.part(p));
  measure_coupled(of, along);
  bool moved = false;
  for (int r = 0; r < of.rows(); ++r) {
    const int p = r / kLanes, i = r % kLanes;
    const float own = of.curvature(r);
    const float step =
        refit_step(tile.job.grids.rule, lanes(tile.parts[p].scale[of.group])[i], lane_of(along, r),
                   own * lanes(slope[p].square)[i], own * least_gain(of.part(p), i));
    if (step == 0) continue;
    moved = true;
    lane_of(steps, r) = step;
    add_step(of, r, step, along);
  }
  for (int p = 0; p < tile.count && moved; ++p) {
    move_scale(of.part(p), of.group, slope[p], steps[p]);
    if (moves_scales(tile.job)) note_refits(tile, of.part(p), steps[p]);
  }
  return moved;
}

/// Gives the rows of one column, one after the other, the level that is best while all else stays.
/// @param coupled  Γ of the column
/// @param step     receives by how much each row's value grows, and
/// @param moved    B times these
template <class Levels>
void descend(const CoupledGroup& of, const Levels& levels, float diagonal, TileColumn& coupled,
             TileColumn& level, TileColumn& step, TileColumn& moved) {
  for (int p = 0; p < of.tile.count; ++p) step[p] = moved[p] = Rows{};
  for (int p = 0; p < of.tile.count; ++p) {
    const RowGrid<Rows>& grid = of.tile.parts[p].grid;
    const Rows inverse = of.inverse_curvature[p] * (1 / diagonal);
    for (int row = 0; row < kLanes; ++row) {
      const Rows target = level[p] * grid.scale + (coupled[p] - moved[p] * diagonal) * inverse;
      Rows next = nearest_level(levels, grid, target);
      Rows wanted = (next - level[p]) * grid.scale;
      while (row < kLanes && lanes(wanted)[row] == 0) ++row;
      if (row == kLanes) break;
      lanes(step[p])[row] = lanes(wanted)[row];
      lanes(level[p])[row] = lanes(next)[row];
      for (int q = 0; q < of.tile.count; ++q)
        moved[q] = moved[q] + factor_row(of.tile.job, p * kLanes + row, q) * lanes(wanted)[row];
    }
  }
}

/// Coordinate descent over the group's codes, see refine_codes().
template <class Levels>
void refine_coupled_codes(const CoupledGroup& of, const Levels& levels) {
  Tile& tile = of.tile;
  for (Index s = of.begin / kPanel; s < panels(of.end); ++s) {
    const Index first = s * kPanel > of.begin ? s * kPanel : of.begin;
    const Index last = least(of.end, (s + 1) * kPanel);
    const float* h = h_strip(tile.job, s) + s * kPanel * kPanel;
    TilePanel gradient, coupled;
    take_gradient(of, s, first, gradient);
    couple(of, gradient, coupled);
    for (Index column = first; column < last; ++column) {
      const auto j = static_cast<int>(column - s * kPanel);
      const float diagonal = h[j * kPanel + j];
      TileColumn slope, level, step, moved;
      for (int p = 0; p < tile.count; ++p) {
        slope[p] = coupled[p][j];
        level[p] = of.part(p).level[column - of.begin];
      }
      descend(of, levels, diagonal, slope, level, step, moved);
      for (int p = 0; p < tile.count; ++p) {
        Part& part = tile.parts[p];
        Rows gain = step[p] * (gradient[p][j] * 2.0F - step[p] * diagonal);
        for (int i = 0; i < kLanes; ++i) part.error[i] -= static_cast<double>(lanes(gain)[i]);
        part.level[column] = shorten(level[p]);
        part.change[column] = -step[p];
        for (int k = j + 1; k < kPanel; ++k) {
          gradient[p][k] = gradient[p][k] - step[p] * h[j * kPanel + k];
          coupled[p][k] = coupled[p][k] - moved[p] * h[j * kPanel + k];
        }
      }
    }
  }
}

/// See refine_group().
template <class Levels>
bool refine_coupled_group(Tile& tile, const Levels& levels, Index begin, Index end, Index from) {
  const CoupledGroup of(tile, begin, end);
  tile.refits = 0;
  for (int p = 0; p < tile.count; ++p) take_levels(of.part(p));
  bool changed = tile.job.refit && refit_coupled(of);
  for (int p = 0; p < tile.count; ++p) use_grid(tile.parts[p], of.group);
  refine_coupled_codes(of, levels);
  for (int p = 0; p < tile.count; ++p) {
    list_changes(of.part(p));
    changed = changed || tile.parts[p].changes[0] + tile.parts[p].changes[1] > 0;
  }
  if (changed) update_gradient(tile, begin, end, from);
  return changed;
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
