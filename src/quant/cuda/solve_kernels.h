#pragma once
/// GPTQ on tiles of rows, one thread a row, around row_kernel.h. In all kernels here block.x is a
/// tile and block.y a task of the batch unless they say otherwise.

#include "quant/cuda/tile.h"
#include "quant/row_kernel.h"

namespace aq::cuda {

/// Grids that are known before their first column: fitted on the original weights, or on ŵ of a
/// group that is wider than a block; or given.
template <class Levels>
struct FitGroups {
  static constexpr int kThreads = 128;
  struct Shared {};
  Levels levels;
  BatchView b;
  const float* values;  ///< of the first group; rows are value_stride apart
  Index value_stride;
  Index first_group, count;

  /// kThreads grids for each block.x.
  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    block.each_thread([&](int thread) {
      const Index at = block.x * kThreads + thread;
      if (at >= b.rows * count) return;
      const Index row = block.y * b.rows + at / count;
      const Index group = first_group + at % count;
      const Index begin = group * b.group;
      const Index end = begin + b.group < b.columns ? begin + b.group : b.columns;
      const TaskView& task = b.tasks[block.y];
      float scale = task.fixed_scale, zero = task.fixed_zero;
      if (!(scale > 0)) {
        const RowGrid<float> grid =
            fit_row(levels, task.grids, values + row * value_stride + begin - first_group * b.group,
                    end - begin, b.weights_of_columns(block.y, begin));
        scale = grid.scale;
        zero = grid.zero;
      }
      b.scale[row * b.groups + group] = scale;
      b.zero[row * b.groups + group] = zero;
    });
  }
};

/// How SolveBlock comes to grids.
enum class Grids {
  fit,      ///< on ŵ, when a group begins
  known,    ///< they were fitted before
  explore,  ///< not at all: columns are not rounded, and leave ŵ in `values` and w - ŵ in E
};

/// Rounds a block of columns; b.sums has s of its columns from all columns before the block.
template <class Levels>
struct SolveBlock {
  static constexpr int kThreads = kTile;
  struct Shared {
    TileArray weight, error;
    TileArray values;  ///< ŵ while a grid is fitted; behind the columns in work their levels
    float strip[kBlock][kPanel];
    RowGrid<float> grid[kTile];
    double loss[kTile];
  };
  Levels levels;
  BatchView b;
  Index first, width;
  Index run_first;  ///< column of the first sum
  Grids grids;
  float* values = nullptr;  ///< explore: `[batch rows, group]`
  Index values_first = 0;   ///< column of their first

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const TileRows rows(block, b);
    load(block, m, rows);
    const Index segment = grids == Grids::fit ? b.group : width;
    for (Index begin = 0; begin < width; begin += segment) {
      const Index end = begin + segment < width ? begin + segment : width;
      if (grids != Grids::known) explore(block, m, rows, begin, end);
      if (grids == Grids::explore) continue;
      take_grids(block, m, rows, begin, end);
      for (Index p = begin; p < end; p += kPanel)
        solve(block, m, rows, p, p + kPanel < end ? p + kPanel : end);
    }
    store(block, m, rows);
  }

 private:
  template <class Block>
  AQ_HOST_DEVICE void load(const Block& block, Shared& m, const TileRows& rows) const {
    block.each_thread([&](int thread) {
      m.loss[thread] = 0;
      for (Index r = 0; r < kTile; ++r)
        for (Index c = thread; c < width; c += kThreads)
          m.weight[c][r] = b.weight[(rows.first + r) * b.stride + first + c];
    });
  }

  /// U of the block's columns [p, end), from its first row to row `end`.
  template <class Block>
  AQ_HOST_DEVICE void load_strip(const Block& block, Shared& m, Index p, Index end) const {
    const float* lower = b.tasks[block.y].factor.lower;
    block.each_thread([&](int thread) {
      for (Index k = thread; k < end; k += kThreads) {
        const float* row = lower + (b.stride - 1 - (first + k)) * b.stride;
        for (Index c = 0; c < kPanel; ++c)
          m.strip[k][c] = p + c < end && k <= p + c ? row[b.stride - 1 - (first + p + c)] : 0.0F;
      }
    });
  }

  /// s of columns [p, end) from the columns before the block, and from those of the block before
  /// column `last`.
  AQ_HOST_DEVICE void sums_of(const Shared& m, const TileRows& rows, int r, Index p, Index end,
                              Index last, float (&sum)[kPanel]) const {
    const float* sums = b.sums + (rows.first + r) * b.run + (first - run_first);
    AQ_UNROLL
    for (Index c = 0; c < kPanel; ++c) sum[c] = p + c < end ? sums[p + c] : 0.0F;
    for (Index k = 0; k < last; ++k) {
      const float error = m.error[k][r];
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c) sum[c] += error * m.strip[k][c];
    }
  }

  /// ŵ of columns [begin, end): what they would become if they were not rounded.
  template <class Block>
  AQ_HOST_DEVICE void explore(const Block& block, Shared& m, const TileRows& rows, Index begin,
                              Index end) const {
    if (!b.has_factor) {
      block.each_thread([&](int r) {
        for (Index c = begin; c < end; ++c) m.values[c][r] = m.weight[c][r];
      });
      return;
    }
    for (Index p = begin; p < end; p += kPanel) {
      const Index panel_end = p + kPanel < end ? p + kPanel : end;
      load_strip(block, m, p, panel_end);
      block.each_thread([&](int r) {
        float sum[kPanel] = {}, weight[kPanel] = {}, shift[kPanel] = {}, found[kPanel] = {};
        sums_of(m, rows, r, p, panel_end, begin, sum);
        for (Index k = begin; k < p; ++k) {
          const float moved = m.weight[k][r] - m.values[k][r];
          AQ_UNROLL
          for (int c = 0; c < kPanel; ++c) sum[c] += moved * m.strip[k][c];
        }
        const int count = static_cast<int>(panel_end - p);
        get(m.weight, p, r, count, weight);
        explore_panel(sum, m.strip[p], 0, count, weight, shift, found);
        put(found, count, m.values, p, r);
      });
    }
  }

  template <class Block>
  AQ_HOST_DEVICE void take_grids(const Block& block, Shared& m, const TileRows& rows, Index begin,
                                 Index end) const {
    const TaskView& task = b.tasks[block.y];
    if (grids == Grids::known && task.factor.order != nullptr) return;  // column by column
    const Index group = (first + begin) / b.group;
    block.each_thread([&](int r) {
      const Index at = (rows.first + r) * b.groups + group;
      if (grids == Grids::known) {
        m.grid[r] = {b.scale[at], 1 / b.scale[at], b.zero[at]};
        return;
      }
      m.grid[r] = fit_row(levels, task.grids, RowValues{m.values + begin, r}, end - begin,
                          b.weights_of_columns(block.y, first + begin));
      b.scale[at] = m.grid[r].scale;
      b.zero[at] = m.grid[r].zero;
    });
  }

  /// Rounds columns [p, end) of one panel.
  template <class Block>
  AQ_HOST_DEVICE void solve(const Block& block, Shared& m, const TileRows& rows, Index p,
                            Index end) const {
    const std::int32_t* order = b.tasks[block.y].factor.order;
    if (b.has_factor) load_strip(block, m, p, end);
    block.each_thread([&](int r) {
      float sum[kPanel] = {}, weight[kPanel] = {}, level[kPanel] = {}, miss[kPanel];
      const int count = static_cast<int>(end - p);
      get(m.weight, p, r, count, weight);
      if (b.has_factor) sums_of(m, rows, r, p, end, p, sum);
      const auto round = [&](int from, int to, const RowGrid<float>& grid) {
        if (!b.has_factor) return round_panel(levels, from, to, grid, weight, level);
        m.loss[r] += static_cast<double>(
            solve_panel(levels, sum, m.strip[p], from, to, grid, weight, level, miss));
      };
      if (order == nullptr) round(0, count, m.grid[r]);
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c) {
        if (c >= count || order == nullptr) continue;
        const Index at = (rows.first + r) * b.groups + order[first + p + c] / b.group;
        round(c, c + 1, {b.scale[at], 1 / b.scale[at], b.zero[at]});
      }
      put(weight, count, m.error, p, r);
      put(level, count, m.values, p, r);
    });
  }

  template <class Block>
  AQ_HOST_DEVICE void store(const Block& block, Shared& m, const TileRows& rows) const {
    block.each_thread([&](int thread) {
      const bool exploring = grids == Grids::explore;
      if (!exploring) b.loss[rows.first + thread] += m.loss[thread];
      for (Index r = 0; r < kTile; ++r)
        for (Index c = thread; c < width; c += kThreads) {
          const Index at = (rows.first + r) * b.stride + first + c;
          b.error.set(at, exploring ? m.weight[c][r] - m.values[c][r] : m.error[c][r]);
          if (!exploring) b.level[at] = short_level(m.values[c][r]);
          if (exploring)
            values[(rows.first + r) * b.group + first - values_first + c] = m.values[c][r];
        }
    });
  }
};

}  // namespace aq::cuda
