/// Refinement after GPTQ: sweeps over the groups, each with a least-squares refit of its scale and
/// coordinate descent over its codes, under the same damped H (QuantEase, Behdin et al. 2023, has
/// the descent; the refit is the least-squares scale of a group while its codes stay).

namespace aq::AQ_TILE_NAMESPACE {
namespace {

AQ_INLINE const float* h_strip(const TileJob& job, Index panel) {
  return job.h + panel * panels(job.columns) * kPanel * kPanel;
}

/// A group in work: buffers begin at its first column.
struct GroupWork {
  const TileJob& job;
  Part& part;
  Index begin, end;
  Rows *level, *change, *gradient, *image;
};

/// g = E H of the group's columns.
void form_gradient(const GroupWork& work) {
  for (Index s = work.begin / kPanel; s < panels(work.end); ++s) {
    Rows sum[kPanel] = {};
    const float* h = h_strip(work.job, s);
    accumulate<kPanel>(work.part.tile, h, 0, work.job.columns, sum, h);
    for (int c = 0; c < kPanel; ++c) work.gradient[s * kPanel + c - work.begin] = sum[c];
  }
}

/// Moves the group's scale to its least-squares value in the stored type, in the rows where the
/// error falls. With l the levels of the group and g its gradient, the error changes by
/// d (d lHl' - 2 g l') when the scale grows by d.
void refit_scale(const GroupWork& work, Index group) {
  const GridRule& rule = work.job.rule;
  Rows along{};   // g l'
  Rows square{};  // lHl'
  for (Index s = work.begin / kPanel; s < panels(work.end); ++s) {
    Rows sum[kPanel] = {};
    accumulate<kPanel>(work.level - work.begin, h_strip(work.job, s), work.begin, work.end, sum);
    for (int c = 0; c < kPanel; ++c) {
      const Index at = s * kPanel + c - work.begin;
      if (at < 0 || at >= work.end - work.begin) continue;
      work.image[at] = sum[c];
      along = along + work.gradient[at] * work.level[at];
      square = square + sum[c] * work.level[at];
    }
  }
  Rows old = work.part.scale[group];
  Rows step{};
  for (int i = 0; i < kLanes; ++i) {
    const float sign = lanes(old)[i] < 0 ? -1.0F : 1.0F;
    const float wanted = sign * (lanes(old)[i] + lanes(along)[i] / lanes(square)[i]);
    if (!(lanes(square)[i] > 0) || !(wanted > 0)) continue;
    lanes(step)[i] = sign * stored_scale(rule, wanted) - lanes(old)[i];
  }
  Rows gain = step * (along * 2.0F - step * square);
  step = where_positive(gain, step, Rows{});
  gain = where_positive(gain, gain, Rows{});
  work.part.scale[group] = old + step;
  for (Index at = 0; at < work.end - work.begin; ++at) {
    work.part.tile[work.begin + at] = work.part.tile[work.begin + at] - step * work.level[at];
    work.gradient[at] = work.gradient[at] - step * work.image[at];
  }
  for (int i = 0; i < kLanes; ++i) work.part.error[i] -= static_cast<double>(lanes(gain)[i]);
}

/// Coordinate descent over the group's codes.
template <class Levels>
void refine_codes(const GroupWork& work, const Levels& levels) {
  for (Index s = work.begin / kPanel; s < panels(work.end); ++s) {
    const Index first = s * kPanel > work.begin ? s * kPanel : work.begin;
    const Index last = least(work.end, (s + 1) * kPanel);
    const float* h = h_strip(work.job, s);
    Rows gradient[kPanel];
    Rows level[kPanel] = {};
    for (int c = 0; c < kPanel; ++c) gradient[c] = work.gradient[s * kPanel + c - work.begin];
    accumulate<kPanel>(work.change - work.begin, h, work.begin, first, gradient);
    for (Index c = first; c < last; ++c) level[c - s * kPanel] = work.level[c - work.begin];
    Rows gain = refine_panel(
        levels, gradient, h + s * kPanel * kPanel, static_cast<int>(first - s * kPanel),
        static_cast<int>(last - s * kPanel), work.part.grid, work.part.tile + s * kPanel, level,
        work.change + (s * kPanel - work.begin));
    for (Index c = first; c < last; ++c) work.part.level[c] = shorten(level[c - s * kPanel]);
    for (int i = 0; i < kLanes; ++i) work.part.error[i] -= static_cast<double>(lanes(gain)[i]);
  }
}

template <class Levels>
void refine(Tile& tile, const Levels& levels) {
  const TileJob& job = tile.job;
  if (job.h == nullptr) return;
  for (int sweep = 0; sweep < job.sweeps; ++sweep) {
    for (Index group = 0; group < job.groups; ++group) {
      const Index begin = group * job.group;
      const Index end = least(job.columns, begin + job.group);
      for (int p = 0; p < tile.count; ++p) {
        Part& part = tile.parts[p];
        const GroupWork work{job,         part,       begin,         end,
                             tile.values, tile.shift, tile.gradient, tile.image};
        for (Index c = begin; c < end; ++c) work.level[c - begin] = lengthen(part.level[c]);
        form_gradient(work);
        if (job.refit) refit_scale(work, group);
        use_grid(part, group);
        refine_codes(work, levels);
      }
    }
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
