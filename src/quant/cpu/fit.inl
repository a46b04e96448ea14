/// The grids of groups: by range, or the best of a few candidates.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

RowGrid<Rows> candidate_grids(const TileJob& job, int number, Rows minimum, Rows maximum) {
  RowGrid<Rows> grid;
  for (int i = 0; i < kLanes; ++i) {
    candidate_grid(job.grids, number, lanes(minimum)[i], lanes(maximum)[i], lanes(grid.scale)[i],
                   lanes(grid.zero)[i]);
    lanes(grid.inverse)[i] = 1 / lanes(grid.scale)[i];
  }
  return grid;
}

/// Fits the grid of `group` of a part to `values` of its columns and makes it the current one.
/// @param weights  of the columns' errors; null: 1
template <class Levels>
void fit(const TileJob& job, const Levels& levels, Part& part, const Rows* values, Index count,
         const float* weights, Index group) {
  Rows minimum{};
  Rows maximum{};
  for (Index i = 0; i < count; ++i) {
    minimum = smaller(values[i], minimum);
    maximum = larger(values[i], maximum);
  }
  const int candidates = candidate_count(job.grids);
  RowGrid<Rows> best = candidate_grids(job, 0, minimum, maximum);
  if (candidates > 1) {
    Rows least_error = rounding_error(levels, best, values, count, weights);
    for (int number = 1; number < candidates; ++number) {
      const RowGrid<Rows> other = candidate_grids(job, number, minimum, maximum);
      const Rows error = rounding_error(levels, other, values, count, weights);
      const Rows gain = least_error - error;
      best.scale = where_positive(gain, other.scale, best.scale);
      best.inverse = where_positive(gain, other.inverse, best.inverse);
      best.zero = where_positive(gain, other.zero, best.zero);
      least_error = where_positive(gain, error, least_error);
    }
  }
  part.grid = best;
  part.scale[group] = best.scale;
  part.zero[group] = best.zero;
}

AQ_INLINE const float* weights_from(const TileJob& job, Index column) {
  return job.column_weight == nullptr ? nullptr : job.column_weight + column;
}

/// Makes the grid of `group` the current one.
AQ_INLINE void use_grid(Part& part, Index group) {
  part.grid.scale = part.scale[group];
  part.grid.zero = part.zero[group];
  part.grid.inverse = divide(Rows{} + 1.0F, part.grid.scale);
}

/// Grids that are known before the first column: given, or fitted to the original weights.
template <class Levels>
void fit_first(Tile& tile, const Levels& levels) {
  const TileJob& job = tile.job;
  for (int p = 0; p < tile.count; ++p) {
    Part& part = tile.parts[p];
    if (job.fixed_scale > 0) {
      part.scale[0] = Rows{} + job.fixed_scale;
      part.zero[0] = Rows{} + job.fixed_zero;
      use_grid(part, 0);
      continue;
    }
    for (Index group = 0; group < job.groups; ++group) {
      const Index begin = group * job.group;
      const Index count = least(job.group, job.columns - begin);
      fit(job, levels, part, part.tile + begin, count, weights_from(job, begin), group);
    }
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
