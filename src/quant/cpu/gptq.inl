/// GPTQ on a tile of rows: left-looking column blocks around row_kernel.h.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

/// s of the block's columns [begin, end) from all columns before it.
void form_block_sums(Tile& tile, Index begin, Index end) {
  const TileJob& job = tile.job;
  const Index first = begin / kPanel;
  const Index count = panels(end) - first;
  for (int p = 0; p < tile.count; ++p) {
    for (Index i = 0; i < count * kPanel; ++i) tile.parts[p].sums[i] = Rows{};
  }
  for (Index k = 0; k < begin; k += kDepth) {
    const Index k_end = least(begin, k + kDepth);
    for (Index s = 0; s < count; ++s) {
      const float* u = strip(job, first + s);
      const float* ahead = s + 1 < count ? strip(job, first + s + 1) + k * kPanel
                                         : strip(job, first) + k_end * kPanel;
      Part& part = tile.parts[0];
      accumulate<kPanel>(part.tile, u, k, k_end, part.sums + s * kPanel, ahead);
      for (int p = 1; p < tile.count; ++p) {
        Part& other = tile.parts[p];
        accumulate<kPanel>(other.tile, u, k, k_end, other.sums + s * kPanel);
      }
    }
  }
}

/// Fits the grid of the group [begin, end) on ŵ: what the group would become if it were not
/// rounded. Its sums are complete up to `begin` afterwards.
template <class Levels>
void explore_group(Tile& tile, const Levels& levels, Part& part, Index block, Index begin,
                   Index end) {
  const TileJob& job = tile.job;
  const Index first = begin / kPanel;
  for (Index s = first; s < panels(end); ++s) {
    Rows* stored = part.sums + (s - block / kPanel) * kPanel;
    // The panel that this group shares with the one before it was completed up to that one.
    const bool shared = s * kPanel < begin && begin > block;
    const Index from = shared ? begin - job.segment : block;
    const float* u = strip(job, s);
    accumulate<kPanel>(part.tile, u, from, begin, stored);
    Rows sum[kPanel];
    for (int c = 0; c < kPanel; ++c) sum[c] = stored[c];
    const Index start_column = s > first ? s * kPanel : begin;
    accumulate<kPanel>(tile.shift - begin, u, begin, start_column, sum);
    explore_panel(sum, u + s * kPanel * kPanel, static_cast<int>(start_column - s * kPanel),
                  static_cast<int>(least(kPanel, end - s * kPanel)), part.tile + s * kPanel,
                  tile.shift + (s * kPanel - begin), tile.values + (s * kPanel - begin));
  }
  fit(job, levels, part, tile.values, end - begin, weights_from(job, begin), begin / job.segment);
}

/// Rounds columns [begin, end), which lie in one panel and share a grid; sums are complete up to
/// `base`.
template <class Levels>
void solve_columns(Tile& tile, const Levels& levels, Part& part, Index block, Index base,
                   Index begin, Index end) {
  const TileJob& job = tile.job;
  const Index panel = begin / kPanel;
  const int first = static_cast<int>(begin - panel * kPanel);
  const int last = static_cast<int>(end - panel * kPanel);
  Rows level[kPanel];
  Rows miss[kPanel];
  if (job.strips == nullptr) {
    round_panel(levels, first, last, part.grid, part.tile + panel * kPanel, level);
  } else {
    const float* u = strip(job, panel);
    Rows sum[kPanel];
    const Rows* stored = part.sums + (panel - block / kPanel) * kPanel;
    for (int c = 0; c < kPanel; ++c) sum[c] = stored[c];
    accumulate<kPanel>(part.tile, u, base, begin, sum);
    Rows squared = solve_panel(levels, sum, u + panel * kPanel * kPanel, first, last, part.grid,
                               part.tile + panel * kPanel, level, miss);
    for (int c = first; c < last && job.h != nullptr; ++c)
      part.change[panel * kPanel + c] = miss[c];
    for (int i = 0; i < kLanes; ++i) part.error[i] += static_cast<double>(lanes(squared)[i]);
  }
  for (int c = first; c < last; ++c) {
    const Index column = panel * kPanel + c;
    part.level[job.order == nullptr ? column : job.order[column]] = shorten(level[c]);
  }
}

/// One group, or one block where grids are known: [begin, end) in `block`.
template <class Levels>
void solve_segment(Tile& tile, const Levels& levels, Index block, Index begin, Index end) {
  const TileJob& job = tile.job;
  if (!job.fit_first && job.fixed_scale == 0) {
    for (int p = 0; p < tile.count; ++p) {
      Part& part = tile.parts[p];
      if (job.strips == nullptr || begin == 0) {
        fit(job, levels, part, part.tile + begin, end - begin, weights_from(job, begin),
            begin / job.segment);
      } else {
        explore_group(tile, levels, part, block, begin, end);
      }
    }
  }
  for (Index c = begin; c < end;) {
    // In an order of its own every column has the grid of another group.
    const Index next = job.order != nullptr ? c + 1 : least(end, (c / kPanel + 1) * kPanel);
    for (int p = 0; p < tile.count; ++p) {
      Part& part = tile.parts[p];
      if (job.order != nullptr) use_grid(part, job.order[c] / job.group);
      solve_columns(tile, levels, part, block, begin, c, next);
    }
    c = next;
  }
}

/// Rounds all columns: afterwards the tile holds E, in the order of rounding.
template <class Levels>
void solve_in_order(Tile& tile, const Levels& levels) {
  const TileJob& job = tile.job;
  if (job.fit_first || job.fixed_scale > 0) fit_first(tile, levels);
  if (job.order != nullptr) permute(tile);
  for (Index block = 0; block < job.columns; block += job.block) {
    const Index block_end = least(job.columns, block + job.block);
    if (job.strips != nullptr) form_block_sums(tile, block, block_end);
    for (Index begin = block; begin < block_end; begin += job.segment) {
      solve_segment(tile, levels, block, begin, least(block_end, begin + job.segment));
    }
  }
}

/// The tile holds G. Sweeps row by row, then those of all rows together; one that changes nothing
/// is the last of its kind.
template <class Levels>
void refine(Tile& tile, const Levels& levels) {
  const TileJob& job = tile.job;
  const int all = job.sweeps + job.coupled_sweeps;
  bool changed = true;
  for (int sweep = 0; sweep < all; ++sweep) {
    const bool coupled = sweep >= job.sweeps;
    if (!changed && sweep != job.sweeps) continue;
    changed = false;
    for (Index begin = 0; begin < job.columns; begin += job.group) {
      const Index end = least(job.columns, begin + job.group);
      const Index from = sweep + 1 < all ? 0 : end / kPanel;
      if (coupled ? refine_coupled_group(tile, levels, begin, end, from)
                  : refine_group(tile, levels, begin, end, from))
        changed = true;
    }
  }
}

template <class Levels>
void solve_with(const TileJob& job, const Levels& levels) {
  Tile tile{job};
  start(tile);
  solve_in_order(tile, levels);
  if (job.h != nullptr) {
    for (int p = 0; p < tile.count; ++p) form_gradient(job, tile.parts[p]);
    if (job.order != nullptr) restore_order(tile);
    refine(tile, levels);
  }
  for (int p = 0; p < tile.count; ++p) {
    const Part& part = tile.parts[p];
    write_codes(job, levels, part);
    write_grids(job, part);
    for (int r = 0; r < part.rows && job.error != nullptr; ++r)
      job.error[part.first_row + r] = part.error[r];
  }
}

/// Calls function(levels) with the levels of the job's element.
template <class Function>
AQ_INLINE void with_levels(const TileJob& job, const Function& function) {
  if (job.element == Element::integer) {
    function(IntegerLevels{job.grids.rule.top});
  } else {
    function(float_levels(job.element));
  }
}

void solve(const TileJob& job) {
  with_levels(job, [&](const auto& levels) { solve_with(job, levels); });
}

/// ‖row · U‖² of every row of a part.
void squared_norms(const TileJob& job, const Part& part, double* out) {
  double total[kLanes] = {};
  for (Index s = 0; s < panels(job.columns); ++s) {
    Rows sum[kPanel] = {};
    accumulate<kPanel>(part.tile, strip(job, s), 0, (s + 1) * kPanel, sum);
    Rows squared{};
    for (int c = 0; c < kPanel; ++c) squared = squared + sum[c] * sum[c];
    for (int i = 0; i < kLanes; ++i) total[i] += static_cast<double>(lanes(squared)[i]);
  }
  for (int r = 0; r < part.rows; ++r) out[part.first_row + r] = total[r];
}

void norms(const NormJob& job) {
  Tile weights{job.rows};
  start(weights);
  if (job.rows.order != nullptr) permute(weights);
  for (int p = 0; p < weights.count; ++p) {
    squared_norms(job.rows, weights.parts[p], job.norm);
  }
  Tile errors{job.rounding};
  start(errors);
  with_levels(job.rounding, [&](const auto& levels) { solve_in_order(errors, levels); });
  Tile ordered{job.rows};  // U has the columns in their order
  for (int p = 0; p < errors.count; ++p) ordered.parts[p] = errors.parts[p];
  ordered.count = errors.count;
  ordered.spare = errors.spare;
  if (job.rows.order != nullptr) permute(ordered);
  for (int p = 0; p < ordered.count; ++p) {
    squared_norms(job.rows, ordered.parts[p], job.error_rtn);
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
