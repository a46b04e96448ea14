#pragma once
/// Refinement on tiles of rows: see refine_panel() in row_kernel.h. block.x is a tile and block.y a
/// task of the batch unless it says otherwise.

#include "quant/cuda/tile.h"
#include "quant/row_kernel.h"

namespace aq::cuda {

/// What brings the scale of one of a row's groups to its least-squares value: see refit_step().
/// @param loss  squared error of the row
/// @param own   by which the errors of the row count
AQ_HOST_DEVICE float scale_step(const BatchView& b, Index task, float scale, double loss,
                                float along, float square, float own = 1) {
  const float least_gain =
      kLeastRefitGain * static_cast<float>(loss) / static_cast<float>(b.groups);
  return refit_step(b.tasks[task].grids.rule, scale, along, own * square, own * least_gain);
}

/// A block of columns whose scales and codes are refined, in what sweeps of all kinds share. Rows
/// of a tile lie in shared memory, one thread a row. b.sums has G = E H of the block's columns with
/// all that changed before the block.
struct RefinedColumns {
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
  BatchView b;
  Index first, width;
  Index run_first;
  bool refit;  ///< scales of groups that lie in the block

  /// Loads the block, refines its groups one after the other, and stores it.
  /// @param find_steps    find_steps(begin, end) writes m.step, by which the scales of the group
  ///   [begin, end) grow
  /// @param refine_codes  refine_codes(begin, p, end) refines columns [p, end) of the group that
  ///   begins at `begin`, a panel at most
  template <class Block, class FindSteps, class RefineCodes>
  AQ_HOST_DEVICE void refine(const Block& block, Shared& m, const FindSteps& find_steps,
                             const RefineCodes& refine_codes) const {
    const TileRows rows(block, b);
    load(block, m, rows);
    const Index segment = b.group < width ? b.group : width;
    for (Index begin = 0; begin < width; begin += segment) {
      const Index end = begin + segment < width ? begin + segment : width;
      if (refit) {
        measure_scales(block, m, begin, end);
        find_steps(begin, end);
        move_scales(block, m, rows, begin, end);
      }
      take_grids(block, m, rows, begin);
      for (Index p = begin; p < end; p += kPanel)
        refine_codes(begin, p, p + kPanel < end ? p + kPanel : end);
      if (refit) add_refit(block, m, begin, end);
    }
    store(block, m, rows);
  }

  /// Of one row, that of the group that begins at `begin`.
  template <class Block>
  AQ_HOST_DEVICE float scale_of(const Block& block, int r, Index begin) const {
    return b.scale[scale_at(TileRows(block, b), r, begin)];
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

  /// The block's first column whose changes G of a group that begins at `begin` lacks: a refit has
  /// brought what lies before the group into G already.
  AQ_HOST_DEVICE Index first_change(Index begin) const { return refit ? begin : 0; }

  /// sum += factors of columns [from, to) of a row times the strip.
  AQ_HOST_DEVICE static void accumulate(const TileArray& factors, const Shared& m, int r,
                                        Index from, Index to, float (&sum)[kPanel]) {
    for (Index k = from; k < to; ++k) {
      const float factor = factors[k][r];
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c) sum[c] += factor * m.strip[k][c];
    }
  }

 private:
  AQ_HOST_DEVICE Index scale_at(const TileRows& rows, int r, Index begin) const {
    return (rows.first + r) * b.groups + (first + begin) / b.group;
  }

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

  /// Brings G of the group [begin, end) up to date, and measures how the rows' errors depend on
  /// its scales.
  template <class Block>
  AQ_HOST_DEVICE void measure_scales(const Block& block, Shared& m, Index begin, Index end) const {
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
  }

  /// Moves the scales of the group [begin, end) by m.step; G of its columns follows.
  template <class Block>
  AQ_HOST_DEVICE void move_scales(const Block& block, Shared& m, const TileRows& rows, Index begin,
                                  Index end) const {
    block.each_thread([&](int r) {
      const float step = m.step[r];
      if (step != 0) m.loss[r] -= static_cast<double>(refit_gain(step, m.along[r], m.square[r]));
      b.scale[scale_at(rows, r, begin)] += step;
      for (Index c = begin; c < end; ++c) {
        m.gradient[c][r] -= step * m.image[c][r];
        m.image[c][r] = m.level[c][r];
      }
    });
  }

  template <class Block>
  AQ_HOST_DEVICE void take_grids(const Block& block, Shared& m, const TileRows& rows,
                                 Index begin) const {
    block.each_thread([&](int r) {
      const Index at = scale_at(rows, r, begin);
      m.grid[r] = {b.scale[at], 1 / b.scale[at], b.zero[at]};
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

/// Sweeps: the scales of a block's groups and its codes, row by row.
template <class Levels>
struct RefineBlock {
  static constexpr int kThreads = RefinedColumns::kThreads;
  using Shared = RefinedColumns::Shared;
  Levels levels;
  RefinedColumns columns;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    columns.refine(
        block, m,
        [&](Index begin, Index) {
          block.each_thread([&](int r) {
            m.step[r] = scale_step(columns.b, block.y, columns.scale_of(block, r, begin), m.loss[r],
                                   m.along[r], m.square[r]);
          });
        },
        [&](Index begin, Index p, Index end) { refine_codes(block, m, begin, p, end); });
  }

 private:
  /// Coordinate descent over columns [p, end) of the group that begins at `begin`.
  template <class Block>
  AQ_HOST_DEVICE void refine_codes(const Block& block, Shared& m, Index begin, Index p,
                                   Index end) const {
    const Index from = columns.first_change(begin);
    columns.load_strip(block, m, from, end, p, end);
    block.each_thread([&](int r) {
      float gradient[kPanel] = {}, level[kPanel] = {}, change[kPanel] = {};
      const int count = static_cast<int>(end - p);
      get(m.gradient, p, r, count, gradient);
      get(m.level, p, r, count, level);
      RefinedColumns::accumulate(m.change, m, r, from, p, gradient);
      const float gain =
          refine_panel(levels, gradient, m.strip[p], 0, count, m.grid[r], level, change);
      m.loss[r] -= static_cast<double>(gain);
      put(level, count, m.level, p, r);
      put(change, count, m.change, p, r);
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
      m.step = scale_step(b, block.y, scale, b.loss[row], m.along[0], m.square[0]);
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
