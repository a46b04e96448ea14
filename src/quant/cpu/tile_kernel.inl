/// GPTQ on a tile of rows: left-looking column blocks around row_kernel.h.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

constexpr int kTileRows = 64;
constexpr int kParts = kTileRows / kLanes;  ///< sets of kLanes rows in a tile

constexpr Index panels(Index columns) {
  return (columns + kPanel - 1) / kPanel;
}

/// What one set of kLanes rows carries along.
struct Part {
  Rows* tile;  ///< `[columns]`: weights, behind the current column E = w - q
  Rows* sums;  ///< `[panels of the block, kPanel]`: s of the block's columns
  RowGrid<Rows> grid;
  alignas(64) std::uint32_t word[kLanes];  ///< codes of the word that is being filled
  double error[kLanes];
  int rows;  ///< rows of the matrix among the lanes
  int first_row;
};

struct Tile {
  const TileJob& job;
  Part parts[kParts] = {};
  Rows* shift = nullptr;  ///< `[segment]`: w - ŵ while a grid is fitted
  int count = 0;
  int word_bits = 0;     ///< bits in Part::word
  Index word_index = 0;  ///< words that are written
};

AQ_INLINE const float* strip(const TileJob& job, Index panel) {
  return job.strips + strip_offset(panel);
}

/// Weights of `part` with rows side by side; zeros beyond rows and columns.
void load_part(const TileJob& job, Part& part) {
  float* out = reinterpret_cast<float*>(part.tile);
  const Index padded = panels(job.columns) * kPanel;
  if (part.rows < kLanes || padded > job.columns) {
    for (Index i = 0; i < padded * kLanes; ++i) out[i] = 0;
  }
  constexpr Index kRun = 16;
  for (Index c0 = 0; c0 < job.columns; c0 += kRun) {
    const Index c1 = least(job.columns, c0 + kRun);
    for (int r = 0; r < part.rows; ++r) {
      const float* row = job.weight + (part.first_row + r) * job.stride;
      for (Index c = c0; c < c1; ++c) out[c * kLanes + r] = row[c];
    }
  }
}

void start(Tile& tile) {
  const TileJob& job = tile.job;
  float* next = job.workspace;
  const Index columns = panels(job.columns) * kPanel;
  const Index sums = (panels(job.block) + 1) * kPanel;
  for (int first = 0; first < job.rows; first += kLanes) {
    Part& part = tile.parts[tile.count++];
    part.tile = reinterpret_cast<Rows*>(next);
    part.sums = reinterpret_cast<Rows*>(next + columns * kLanes);
    next += (columns + sums) * kLanes;
    part.first_row = first;
    part.rows = static_cast<int>(least(kLanes, job.rows - first));
    for (int i = 0; i < kLanes; ++i) {
      part.word[i] = 0;
      part.error[i] = 0;
    }
    load_part(job, part);
  }
  tile.shift = reinterpret_cast<Rows*>(next);
}

/// Grids of a part from the ranges of its rows; written to row r, group `group`.
void fit(const TileJob& job, Part& part, Rows minimum, Rows maximum, Index group) {
  float* scale = lanes(part.grid.scale);
  float* zero = lanes(part.grid.zero);
  float* inverse = lanes(part.grid.inverse);
  const float* low = lanes(minimum);
  const float* high = lanes(maximum);
  for (int i = 0; i < kLanes; ++i) {
    fit_grid_inline(job.rule, low[i], high[i], scale[i], zero[i]);
    inverse[i] = 1 / scale[i];
  }
  for (int r = 0; r < part.rows; ++r) {
    const Index at = (part.first_row + r) * job.groups + group;
    if (job.scales != nullptr) job.scales[at] = scale[r];
    if (job.zeros != nullptr) job.zeros[at] = static_cast<std::uint8_t>(zero[r]);
  }
}

/// Fits on the weights as they stand in columns [begin, end).
void fit_weights(const TileJob& job, Part& part, Index begin, Index end, Index group) {
  Rows minimum = part.tile[begin];
  Rows maximum = minimum;
  for (Index c = begin + 1; c < end; ++c) {
    minimum = smaller(part.tile[c], minimum);
    maximum = larger(part.tile[c], maximum);
  }
  fit(job, part, minimum, maximum, group);
}

void fit_once(Tile& tile) {
  const TileJob& job = tile.job;
  for (int p = 0; p < tile.count; ++p) {
    Part& part = tile.parts[p];
    if (job.fit_whole_row) {
      fit_weights(job, part, 0, job.columns, 0);
    } else if (job.fixed_scale > 0) {
      for (int i = 0; i < kLanes; ++i) {
        lanes(part.grid.scale)[i] = job.fixed_scale;
        lanes(part.grid.inverse)[i] = 1 / job.fixed_scale;
        lanes(part.grid.zero)[i] = job.fixed_zero;
      }
    }
  }
}

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
void explore_group(Tile& tile, Part& part, Index block, Index begin, Index end) {
  const TileJob& job = tile.job;
  const Index first = begin / kPanel;
  Rows minimum{};
  Rows maximum{};
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
                  tile.shift + (s * kPanel - begin), minimum, maximum);
  }
  fit(job, part, minimum, maximum, begin / job.segment);
}

/// Appends the codes of one column to the words of a part's rows.
AQ_INLINE void append_column(const TileJob& job, Part& part, Rows level, int used, Index index) {
  const Rows code = level + part.grid.zero;
  Ints whole[2] = {__builtin_convertvector(code.a, Ints), __builtin_convertvector(code.b, Ints)};
  const auto* codes = reinterpret_cast<const std::uint32_t*>(whole);
  for (int i = 0; i < kLanes; ++i) part.word[i] |= codes[i] << used;
  if (used + job.bits < 32) return;
  for (int r = 0; r < part.rows; ++r) {
    job.codes[(part.first_row + r) * job.words + index] = part.word[r];
  }
  const int kept = 32 - used;  // bits of this code that fitted
  for (int i = 0; i < kLanes; ++i) part.word[i] = kept < 32 ? codes[i] >> kept : 0;
}

/// Rounds columns [begin, end), which lie in one panel; sums are complete up to `base`.
void solve_columns(Tile& tile, Part& part, Index block, Index base, Index begin, Index end) {
  const TileJob& job = tile.job;
  const Index panel = begin / kPanel;
  const int first = static_cast<int>(begin - panel * kPanel);
  const int last = static_cast<int>(end - panel * kPanel);
  Rows level[kPanel];
  if (job.strips == nullptr) {
    round_panel(first, last, part.grid, job.rule.top, part.tile + panel * kPanel, level);
  } else {
    const float* u = strip(job, panel);
    Rows sum[kPanel];
    const Rows* stored = part.sums + (panel - block / kPanel) * kPanel;
    for (int c = 0; c < kPanel; ++c) sum[c] = stored[c];
    accumulate<kPanel>(part.tile, u, base, begin, sum);
    Rows squared = solve_panel(sum, u + panel * kPanel * kPanel, first, last, part.grid,
                               job.rule.top, part.tile + panel * kPanel, level);
    for (int i = 0; i < kLanes; ++i) part.error[i] += static_cast<double>(lanes(squared)[i]);
  }
  if (job.codes == nullptr) return;
  int used = tile.word_bits;
  Index index = tile.word_index;
  for (int c = first; c < last; ++c) {
    append_column(job, part, level[c], used, index);
    used += job.bits;
    index += used / 32;
    used %= 32;
  }
}

/// One group, or one block where grids are fixed: [begin, end) in `block`.
void solve_segment(Tile& tile, Index block, Index begin, Index end) {
  const TileJob& job = tile.job;
  if (!job.fit_whole_row && job.fixed_scale == 0) {
    for (int p = 0; p < tile.count; ++p) {
      if (job.strips == nullptr || begin == 0) {
        fit_weights(job, tile.parts[p], begin, end, begin / job.segment);
      } else {
        explore_group(tile, tile.parts[p], block, begin, end);
      }
    }
  }
  for (Index c = begin; c < end;) {
    const Index next = least(end, (c / kPanel + 1) * kPanel);
    for (int p = 0; p < tile.count; ++p) {
      solve_columns(tile, tile.parts[p], block, begin, c, next);
    }
    const Index bits = tile.word_bits + (next - c) * job.bits;
    tile.word_index += bits / 32;
    tile.word_bits = static_cast<int>(bits % 32);
    c = next;
  }
}

void solve_columns_in_order(Tile& tile) {
  const TileJob& job = tile.job;
  fit_once(tile);
  for (Index block = 0; block < job.columns; block += job.block) {
    const Index block_end = least(job.columns, block + job.block);
    if (job.strips != nullptr) form_block_sums(tile, block, block_end);
    for (Index begin = block; begin < block_end; begin += job.segment) {
      solve_segment(tile, block, begin, least(block_end, begin + job.segment));
    }
  }
}

void solve(const TileJob& job) {
  Tile tile{job};
  start(tile);
  solve_columns_in_order(tile);
  for (int p = 0; p < tile.count; ++p) {
    const Part& part = tile.parts[p];
    for (int r = 0; r < part.rows; ++r) {
      const Index row = part.first_row + r;
      if (job.codes != nullptr && tile.word_bits > 0) {
        job.codes[row * job.words + tile.word_index] = part.word[r];
      }
      if (job.error != nullptr) job.error[row] = part.error[r];
    }
  }
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
  for (int p = 0; p < weights.count; ++p) {
    squared_norms(job.rows, weights.parts[p], job.norm);
  }
  TileJob rounding = job.rows;
  rounding.strips = nullptr;
  Tile errors{rounding};
  start(errors);
  solve_columns_in_order(errors);
  for (int p = 0; p < errors.count; ++p) {
    squared_norms(job.rows, errors.parts[p], job.error_rtn);
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
