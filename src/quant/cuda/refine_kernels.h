#pragma once
/// Refinement on tiles of rows: see refine_panel() in row_kernel.h. block.x is a tile and block.y a
/// task of the batch unless it says otherwise.

#include "quant/cuda/tile.h"
#include "quant/row_kernel.h"

namespace aq::cuda {

/// Sweeps: the scales of a block's groups and its codes, under G = E H. b.sums has G of the block's
/// columns with all that changed before the block.
template <class Levels>
struct RefineBlock {
  static constexpr int kThreads = kTile;
  struct Shared {
    TileArray gradient, level;
    TileArray change;  ///< of E
    TileArray image;   ///< levels times H of the group; then the levels as they were
    float strip[kBlock][kPanel];
    RowGrid<float> grid[kTile];
    float along[kTile], square[kTile], step[kTile];
    double loss[kTile];
  };
  Levels levels;
  BatchView b;
  Index first, width;
  Index run_first;
  bool refit;  ///< scales of groups that lie in the block

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const TileRows rows(block, b);
    load(block, m, rows);
    const Index segment = b.group < width ? b.group : width;
    for (Index begin = 0; begin < width; begin += segment) {
      const Index end = begin + segment < width ? begin + segment : width;
      if (refit) move_scale(block, m, rows, begin, end);
      take_grids(block, m, rows, begin);
      for (Index p = begin; p < end; p += kPanel)
        refine(block, m, begin, p, p + kPanel < end ? p + kPanel : end);
      if (refit) add_refit(block, m, begin, end);
    }
    store(block, m, rows);
  }

 private:
  template <class Block>
  AQ_HOST_DEVICE void load(const Block& block, Shared& m, const TileRows& rows) const {
    block.each_thread([&](int thread) {
      m.loss[thread] = b.loss[rows.first + thread];
      for (Index r = 0; r < kTile; ++r)
        for (Index c = thread; c < width; c += kThreads) {
          m.gradient[c][r] = b.sums[(rows.first + r) * b.run + first - run_first + c];
          m.level[c][r] = from_bf16(b.level[(rows.first + r) * b.stride + first + c]);
        }
    });
  }

  /// H of rows [from, to) and columns [p, end) of the block.
  template <class Block>
  AQ_HOST_DEVICE void load_strip(const Block& block, Shared& m, Index from, Index to, Index p,
                                 Index end) const {
    const PairArray h = b.tasks[block.y].factor.h;
    block.each_thread([&](int thread) {
      for (Index k = from + thread; k < to; k += kThreads)
        for (Index c = 0; c < kPanel; ++c)
          m.strip[k][c] = p + c < end ? h.get((first + k) * b.stride + first + p + c) : 0.0F;
    });
  }

  /// Refits the scale of the group [begin, end), and brings G of its columns up to date.
  template <class Block>
  AQ_HOST_DEVICE void move_scale(const Block& block, Shared& m, const TileRows& rows, Index begin,
                                 Index end) const {
    // What the groups before it in the block have changed.
    for (Index p = begin; p < end; p += kPanel) {
      const Index panel_end = p + kPanel < end ? p + kPanel : end;
      load_strip(block, m, 0, end, p, panel_end);
      block.each_thread([&](int r) {
        if (p == begin) m.along[r] = m.square[r] = 0;
        float sum[kPanel] = {}, image[kPanel] = {};
        accumulate(m.change, m, r, 0, begin, sum);
        accumulate(m.level, m, r, begin, end, image);
        AQ_UNROLL
        for (int c = 0; c < kPanel; ++c) {
          if (p + c >= panel_end) continue;
          m.gradient[p + c][r] += sum[c];
          m.image[p + c][r] = image[c];
          m.along[r] += m.gradient[p + c][r] * m.level[p + c][r];
          m.square[r] += image[c] * m.level[p + c][r];
        }
      });
    }
    block.each_thread([&](int r) {
      const Index at = (rows.first + r) * b.groups + (first + begin) / b.group;
      const float least_gain =
          kLeastRefitGain * static_cast<float>(m.loss[r]) / static_cast<float>(b.groups);
      const float step =
          refit_step(b.tasks[block.y].grids.rule, b.scale[at], m.along[r], m.square[r], least_gain);
      if (step != 0) m.loss[r] -= static_cast<double>(refit_gain(step, m.along[r], m.square[r]));
      b.scale[at] += step;
      m.step[r] = step;
      for (Index c = begin; c < end; ++c) {
        m.gradient[c][r] -= step * m.image[c][r];
        m.image[c][r] = m.level[c][r];
      }
    });
  }

  AQ_HOST_DEVICE static void accumulate(const TileArray& factors, const Shared& m, int r,
                                        Index from, Index to, float (&sum)[kPanel]) {
    for (Index k = from; k < to; ++k) {
      const float factor = factors[k][r];
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c) sum[c] += factor * m.strip[k][c];
    }
  }

  template <class Block>
  AQ_HOST_DEVICE void take_grids(const Block& block, Shared& m, const TileRows& rows,
                                 Index begin) const {
    block.each_thread([&](int r) {
      const Index at = (rows.first + r) * b.groups + (first + begin) / b.group;
      m.grid[r] = {b.scale[at], 1 / b.scale[at], b.zero[at]};
    });
  }

  /// Coordinate descent over columns [p, end) of the group that begins at `begin`. A refit has
  /// brought what lies before the group into G already.
  template <class Block>
  AQ_HOST_DEVICE void refine(const Block& block, Shared& m, Index begin, Index p, Index end) const {
    const Index from = refit ? begin : 0;
    load_strip(block, m, from, end, p, end);
    block.each_thread([&](int r) {
      float gradient[kPanel] = {}, level[kPanel] = {}, change[kPanel] = {};
      const int count = static_cast<int>(end - p);
      get(m.gradient, p, r, count, gradient);
      get(m.level, p, r, count, level);
      accumulate(m.change, m, r, from, p, gradient);
      const float gain =
          refine_panel(levels, gradient, m.strip[p], 0, count, m.grid[r], level, change);
      m.loss[r] -= static_cast<double>(gain);
      put(level, count, m.level, p, r);
      put(change, count, m.change, p, r);
    });
  }

  /// What the refit changed of E, for columns beyond the group.
  template <class Block>
  AQ_HOST_DEVICE void add_refit(const Block& block, Shared& m, Index begin, Index end) const {
    block.each_thread([&](int r) {
      for (Index c = begin; c < end; ++c) m.change[c][r] -= m.step[r] * m.image[c][r];
    });
  }

  template <class Block>
  AQ_HOST_DEVICE void store(const Block& block, Shared& m, const TileRows& rows) const {
    block.each_thread([&](int thread) {
      b.loss[rows.first + thread] = m.loss[thread];
      for (Index r = 0; r < kTile; ++r)
        for (Index c = thread; c < width; c += kThreads) {
          b.level[(rows.first + r) * b.stride + first + c] = short_level(m.level[c][r]);
          b.change.set((rows.first + r) * b.run + first - run_first + c, m.change[c][r]);
        }
    });
  }
};

/// The refit of the scale of a group that is wider than a block: b.sums has G of its columns,
/// `image` its levels times H. A row of the batch for each block.x.
struct RefitWide {
  static constexpr int kThreads = 128;
  struct Shared {
    float along[kThreads], square[kThreads];
    float step;
  };
  BatchView b;
  const float* image;  ///< `[batch rows, run]`
  Index group;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index row = block.y * b.rows + block.x;
    const Index begin = group * b.group;
    const Index width = begin + b.group < b.columns ? b.group : b.columns - begin;
    float* gradient = b.sums + row * b.run;
    const float* of_row = image + row * b.run;
    const std::uint16_t* level = b.level + row * b.stride + begin;
    block.each_thread([&](int thread) {
      float along = 0, square = 0;
      for (Index c = thread; c < width; c += kThreads) {
        along += gradient[c] * from_bf16(level[c]);
        square += of_row[c] * from_bf16(level[c]);
      }
      m.along[thread] = along;
      m.square[thread] = square;
    });
    block.each_thread([&](int thread) {
      if (thread > 0) return;
      for (int i = 1; i < kThreads; ++i) {
        m.along[0] += m.along[i];
        m.square[0] += m.square[i];
      }
      float& scale = b.scale[row * b.groups + group];
      const float least_gain =
          kLeastRefitGain * static_cast<float>(b.loss[row]) / static_cast<float>(b.groups);
      m.step = refit_step(b.tasks[block.y].grids.rule, scale, m.along[0], m.square[0], least_gain);
      if (m.step != 0)
        b.loss[row] -= static_cast<double>(refit_gain(m.step, m.along[0], m.square[0]));
      scale += m.step;
    });
    block.each_thread([&](int thread) {
      for (Index c = thread; c < width; c += kThreads) gradient[c] -= m.step * of_row[c];
    });
  }
};

}  // namespace aq::cuda
