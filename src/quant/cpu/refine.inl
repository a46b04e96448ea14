/// Refinement after GPTQ: sweeps over the groups, each with a least-squares refit of its scale and
/// coordinate descent over its codes, under the same damped H (QuantEase, Behdin et al. 2023, has
/// the descent; the refit is the least-squares scale of a group while its codes stay).
///
/// G = E H is kept up to date for all columns: a group adds what its changes of E give, and few
/// columns of few rows change. So a sweep costs a fraction of the product E H.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

AQ_INLINE const float* h_strip(const TileJob& job, Index panel) {
  return job.h + panel * panels(job.columns) * kPanel * kPanel;
}

/// G = (E U) U' from E U, which GPTQ has left in part.change. It takes the place of E.
void form_gradient(const TileJob& job, Part& part) {
  const Index padded = panels(job.columns) * kPanel;
  for (Index begin = 0; begin < padded; begin += kDepth) {
    const Index end = least(padded, begin + kDepth);
    for (Index k = begin; k < end; ++k) part.tile[k] = Rows{};
    for (Index s = begin / kPanel; s < panels(job.columns); ++s) {
      const float* u = strip(job, s);
      const Rows* miss = part.change + s * kPanel;
      for (Index k = begin; k < least(end, (s + 1) * kPanel); ++k) {
        Rows sum = part.tile[k];
#pragma GCC unroll 8
        for (int c = 0; c < kPanel; ++c) sum = sum + miss[c] * u[k * kPanel + c];
        part.tile[k] = sum;
      }
    }
  }
}

/// One group of a part in work.
struct GroupWork {
  const TileJob& job;
  Part& part;
  Index begin, end;
  Rows *level, *image;  ///< begin at the group's first column
};

GroupWork group_work(Tile& tile, int part, Index begin, Index end) {
  const Index at = tile.job.coupled_sweeps > 0 ? part * group_rows(tile.job) : 0;
  return {tile.job, tile.parts[part], begin, end, tile.values + at, tile.shift + at};
}

void take_levels(const GroupWork& work) {
  for (Index c = work.begin; c < work.end; ++c)
    work.level[c - work.begin] = lengthen(work.part.level[c]);
}

/// How a row's error changes with the scale of a group: with l the levels of the group and g its G,
/// by d (d square - 2 along) when the scale grows by d.
struct Slope {
  Rows along;   ///< g l'
  Rows square;  ///< lHl'
};

/// work.image receives lH.
Slope measure_scale(const GroupWork& work) {
  Slope slope{};
  for (Index s = work.begin / kPanel; s < panels(work.end); ++s) {
    Rows sum[kPanel] = {};
    accumulate<kPanel>(work.level - work.begin, h_strip(work.job, s), work.begin, work.end, sum);
    for (int c = 0; c < kPanel; ++c) {
      const Index column = s * kPanel + c;
      if (column < work.begin || column >= work.end) continue;
      work.image[column - work.begin] = sum[c];
      slope.along = slope.along + work.part.tile[column] * work.level[column - work.begin];
      slope.square = slope.square + sum[c] * work.level[column - work.begin];
    }
  }
  return slope;
}

/// By how much a row's error must fall for its scale to move.
AQ_INLINE float least_gain(const GroupWork& work, int row) {
  return kLeastRefitGain * static_cast<float>(work.part.error[row]) /
         static_cast<float>(work.job.groups);
}

/// The scale of the group grows by `step` in each row.
void move_scale(const GroupWork& work, Index group, const Slope& slope, Rows step) {
  Part& part = work.part;
  part.scale[group] = part.scale[group] + step;
  for (Index at = 0; at < work.end - work.begin; ++at)
    part.tile[work.begin + at] = part.tile[work.begin + at] - step * work.image[at];
  Rows gain = refit_gain(step, slope.along, slope.square);
  for (int i = 0; i < kLanes; ++i)
    if (lanes(step)[i] != 0) part.error[i] -= static_cast<double>(lanes(gain)[i]);
}

/// Moves the group's scale to its least-squares value in the stored type, in the rows where the
/// error falls. @return by how much
Rows refit_scale(const GroupWork& work, Index group) {
  Slope slope = measure_scale(work);
  Rows old = work.part.scale[group];
  Rows step;
  for (int i = 0; i < kLanes; ++i)
    lanes(step)[i] = refit_step(work.job.grids.rule, lanes(old)[i], lanes(slope.along)[i],
                                lanes(slope.square)[i], least_gain(work, i));
  move_scale(work, group, slope, step);
  return step;
}

/// Coordinate descent over the group's codes; part.change receives what it adds to E.
template <class Levels>
void refine_codes(const GroupWork& work, const Levels& levels) {
  Part& part = work.part;
  for (Index s = work.begin / kPanel; s < panels(work.end); ++s) {
    const Index first = s * kPanel > work.begin ? s * kPanel : work.begin;
    const Index last = least(work.end, (s + 1) * kPanel);
    const float* h = h_strip(work.job, s);
    Rows gradient[kPanel];
    Rows level[kPanel] = {};
    for (int c = 0; c < kPanel; ++c) gradient[c] = part.tile[s * kPanel + c];
    accumulate<kPanel>(part.change, h, work.begin, first, gradient);
    for (Index c = first; c < last; ++c) level[c - s * kPanel] = work.level[c - work.begin];
    Rows gain = refine_panel(
        levels, gradient, h + s * kPanel * kPanel, static_cast<int>(first - s * kPanel),
        static_cast<int>(last - s * kPanel), part.grid, level, part.change + s * kPanel);
    for (Index c = first; c < last; ++c) part.level[c] = shorten(level[c - s * kPanel]);
    for (int i = 0; i < kLanes; ++i) part.error[i] -= static_cast<double>(lanes(gain)[i]);
  }
}

/// Notes the rows whose scale moved by `step`, and by what E changed there, for columns of other
/// groups.
void note_refits(Tile& tile, const GroupWork& work, Rows step) {
  const Index width = work.end - work.begin;
  for (int i = 0; i < kLanes; ++i) {
    const float d = lanes(step)[i];
    if (d == 0) continue;
    const int lane = tile.refits % kVectorLanes;
    Floats* packed = tile.packed + tile.refits / kVectorLanes * tile.job.group;
    const auto* level = reinterpret_cast<const float*>(work.level);
    for (Index at = 0; at < width; ++at) {
      if (lane == 0) packed[at] = Floats{};
      packed[at][lane] = -d * level[at * kLanes + i];
    }
    tile.refit_rows[tile.refits++] = lanes(*work.part.tile) + i;
  }
}

AQ_INLINE bool any(Floats x) {
  const Ints is = x != 0;
  std::int32_t all = 0;
  for (int i = 0; i < kVectorLanes; ++i) all |= is[i];
  return all != 0;
}

/// Lists the columns of the group in which each vector of the part has changed codes.
void list_changes(const GroupWork& work) {
  Part& part = work.part;
  for (int half = 0; half < 2; ++half) {
    part.changes[half] = 0;
    for (Index c = work.begin; c < work.end; ++c)
      if (any(half == 0 ? part.change[c].a : part.change[c].b))
        part.changed[half][part.changes[half]++] = static_cast<std::int32_t>(c);
  }
}

/// Adds to G of a panel what the refits of [begin, end) give in columns outside of it; inside, the
/// refit itself did.
void add_refits(Tile& tile, Index s, Index begin, Index end) {
  const float* h = h_strip(tile.job, s);
  const bool all_outside = (s + 1) * kPanel <= begin || s * kPanel >= end;
  const auto is_outside = [&](int c) {
    return all_outside || s * kPanel + c < begin || s * kPanel + c >= end;
  };
  for (int first = 0; first < tile.refits; first += kVectorLanes) {
    const Floats* packed = tile.packed + first / kVectorLanes * tile.job.group;
    Floats sum[kPanel] = {};
    for (Index k = begin; k < end; ++k) {
#pragma GCC unroll 8
      for (int c = 0; c < kPanel; ++c) sum[c] += packed[k - begin] * h[k * kPanel + c];
    }
    const int count = static_cast<int>(least(kVectorLanes, tile.refits - first));
    for (int i = 0; i < count; ++i) {
      float* gradient = tile.refit_rows[first + i] + s * kPanel * kLanes;
#pragma GCC unroll 8
      for (int c = 0; c < kPanel; ++c)
        if (is_outside(c)) gradient[Index{c} * kLanes] += sum[c][i];
    }
  }
}

/// Adds to G of a panel what the listed changes of codes give.
void add_changes(Part& part, const float* h, Index s) {
  auto* gradient = reinterpret_cast<Floats*>(part.tile + s * kPanel);
  const auto* change = reinterpret_cast<const Floats*>(part.change);
  for (int half = 0; half < 2; ++half) {
    if (part.changes[half] == 0) continue;
    Floats sum[kPanel];
#pragma GCC unroll 8
    for (int c = 0; c < kPanel; ++c) sum[c] = gradient[2 * c + half];
    for (Index i = 0; i < part.changes[half]; ++i) {
      const Index k = part.changed[half][i];
      const Floats moved = change[2 * k + half];
#pragma GCC unroll 8
      for (int c = 0; c < kPanel; ++c) sum[c] += moved * h[k * kPanel + c];
    }
#pragma GCC unroll 8
    for (int c = 0; c < kPanel; ++c) gradient[2 * c + half] = sum[c];
  }
}

/// G follows the listed changes of the group [begin, end) in the panels from `from` on.
void update_gradient(Tile& tile, Index begin, Index end, Index from) {
  for (Index s = from; s < panels(tile.job.columns); ++s) {
    if (s * kPanel < begin || (s + 1) * kPanel > end) add_refits(tile, s, begin, end);
    for (int p = 0; p < tile.count; ++p) add_changes(tile.parts[p], h_strip(tile.job, s), s);
  }
}

/// Refits and refines the group [begin, end) of all rows; G follows in the panels from `from` on.
/// @return whether anything changed
template <class Levels>
bool refine_group(Tile& tile, const Levels& levels, Index begin, Index end, Index from) {
  const TileJob& job = tile.job;
  const Index group = begin / job.group;
  bool changed = false;
  tile.refits = 0;
  for (int p = 0; p < tile.count; ++p) {
    Part& part = tile.parts[p];
    const GroupWork work = group_work(tile, p, begin, end);
    take_levels(work);
    if (job.refit) {
      const Rows step = refit_scale(work, group);
      changed = changed || any(step.a) || any(step.b);
      if (moves_scales(job)) note_refits(tile, work, step);
    }
    use_grid(part, group);
    refine_codes(work, levels);
    list_changes(work);
    changed = changed || part.changes[0] + part.changes[1] > 0;
  }
  if (changed) update_gradient(tile, begin, end, from);
  return changed;
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
