#pragma once
/// Refinement of the rows of a tile together, under an output factor B: see coupled.inl of the CPU.
/// G is kept as in sweeps row by row; the gradient Γ = B G is formed where it is needed. Rows
/// change one after the other. block.x is a tile and block.y a task of the batch.

#include "quant/cuda/refine_kernels.h"

namespace aq::cuda {

/// B of a tile.
using OutputBlock = float[kTile][kTile];

/// This thread's part of it.
AQ_HOST_DEVICE void load_output(const BatchView& b, const TileRows& rows, int thread, int threads,
                                OutputBlock& output) {
  for (int i = thread; i < kTile * kTile; i += threads)
    output[i / kTile][i % kTile] = b.output[rows.first * kTile + i];
}

/// Finds by how much the scales of a tile's rows grow, one row after the other.
/// @param along   Σ Γ l of each row with its levels l; follows the steps of rows before it
/// @param step    receives the steps
/// @param square  square(r, q) = l H l' of the levels of two rows
/// @param find    find(r, along) is the step of a row
template <class Block, class Square, class Find>
AQ_HOST_DEVICE void find_coupled_steps(const Block& block, const OutputBlock& output,
                                       float (&along)[kTile], float (&step)[kTile],
                                       const Square& square, const Find& find) {
  for (int r = 0; r < kTile; ++r)
    block.each_thread([&](int q) {
      if (q < r || q >= kTile) return;
      if (r > 0 && step[r - 1] != 0)
        along[q] -= output[r - 1][q] * (square(r - 1, q) * step[r - 1]);
      if (q == r) step[r] = find(r, along[r]);
    });
}

/// Coupled sweeps: the scales of a block's groups and its codes.
template <class Levels>
struct RefineCoupled {
  static constexpr int kThreads = RefinedColumns::kThreads;
  struct Shared : RefinedColumns::Shared {
    OutputBlock output;
    float coupled[kPanel][kPitch];  ///< Γ of the panel in work
    float coupled_along[kTile];     ///< Σ Γ l of the group in work
    float wanted[2][kTile];         ///< by how much values would grow that may still change
  };
  Levels levels;
  RefinedColumns columns;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    block.each_thread([&](int thread) {
      load_output(columns.b, TileRows(block, columns.b), thread, kThreads, m.output);
    });
    columns.refine(
        block, m, [&](Index begin, Index end) { find_steps(block, m, begin, end); },
        [&](Index begin, Index p, Index end) { refine_codes(block, m, begin, p, end); });
  }

 private:
  /// A row while a column is in work.
  struct Row {
    RowGrid<float> grid;
    float slope, inverse;  ///< Γ before the column changes, and 1 / its curvature
    float level, next;     ///< the one now, and the best one
    float step, moved;     ///< by how much its value grew, and B times these of all rows
  };

  /// Γ of `count` columns from column p on, of row r.
  AQ_HOST_DEVICE static void couple(const Shared& m, Index p, int count, int r,
                                    float (&coupled)[kPanel]) {
    for (int k = 0; k < kTile; ++k) {
      const float factor = m.output[k][r];
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c)
        if (c < count) coupled[c] += factor * m.gradient[p + c][k];
    }
  }

  template <class Block>
  AQ_HOST_DEVICE void find_steps(const Block& block, Shared& m, Index begin, Index end) const {
    block.each_thread([&](int r) {
      float along = 0;
      for (Index p = begin; p < end; p += kPanel) {
        const int count = static_cast<int>(end - p < kPanel ? end - p : kPanel);
        float coupled[kPanel] = {};
        couple(m, p, count, r, coupled);
        AQ_UNROLL
        for (int c = 0; c < kPanel; ++c)
          if (c < count) along += coupled[c] * m.level[p + c][r];
      }
      m.coupled_along[r] = along;
    });
    const auto square = [&](int r, int q) {
      float sum = 0;
      for (Index c = begin; c < end; ++c) sum += m.image[c][r] * m.level[c][q];
      return sum;
    };
    find_coupled_steps(block, m.output, m.coupled_along, m.step, square, [&](int r, float along) {
      return scale_step(columns.b, block.y, columns.scale_of(block, r, begin), m.loss[r], along,
                        m.square[r], m.output[r][r]);
    });
  }

  /// Coordinate descent over columns [p, end) of the group that begins at `begin`.
  template <class Block>
  AQ_HOST_DEVICE void refine_codes(const Block& block, Shared& m, Index begin, Index p,
                                   Index end) const {
    const Index from = columns.first_change(begin);
    const int count = static_cast<int>(end - p);
    columns.load_strip(block, m, from, end, p, end);
    block.each_thread([&](int r) {
      float gradient[kPanel] = {};
      get(m.gradient, p, r, count, gradient);
      RefinedColumns::accumulate(m.change, m, r, from, p, gradient);
      put(gradient, count, m.gradient, p, r);
    });
    block.each_thread([&](int r) {
      float coupled[kPanel] = {};
      couple(m, p, count, r, coupled);
      AQ_UNROLL
      for (int c = 0; c < kPanel; ++c) m.coupled[c][r] = coupled[c];
    });
    for (int c = 0; c < count; ++c) refine_column(block, m, p, c, count);
  }

  /// Gives the rows of column c of the panel at p, one after the other, the level that is best
  /// while all else stays. All rows that have not had their turn say what they want; the first that
  /// wants anything is the next that moves.
  template <class Block>
  AQ_HOST_DEVICE void refine_column(const Block& block, Shared& m, Index p, int c,
                                    int count) const {
    const float diagonal = m.strip[p + c][c];
    typename Block::template Own<Row> own(block);
    block.each_thread([&](int r) {
      own[r] = {.grid = m.grid[r],
                .slope = m.coupled[c][r],
                .inverse = 1 / m.output[r][r] * (1 / diagonal),
                .level = m.level[p + c][r],
                .next = 0,
                .step = 0,
                .moved = 0};
      m.wanted[0][r] = want(own[r], diagonal);
    });
    for (int turn = 0;; turn = 1 - turn) {
      const int mover = first_that_wants(m.wanted[turn]);
      if (mover == kTile) break;
      const float step = m.wanted[turn][mover];
      block.each_thread([&](int r) {
        Row& row = own[r];
        row.moved += m.output[mover][r] * step;
        if (r == mover) {
          row.level = row.next;
          row.step = step;
        }
        m.wanted[1 - turn][r] = r > mover ? want(row, diagonal) : 0.0F;
      });
    }
    block.each_thread([&](int r) { finish_column(m, p, c, count, r, own[r]); });
  }

  /// By how much a row's value would grow.
  AQ_HOST_DEVICE float want(Row& row, float diagonal) const {
    const float target =
        row.level * row.grid.scale + (row.slope - row.moved * diagonal) * row.inverse;
    row.next = nearest_level(levels, row.grid, target);
    return (row.next - row.level) * row.grid.scale;
  }

  /// kTile where none does.
  AQ_HOST_DEVICE static int first_that_wants(const float (&wanted)[kTile]) {
    int first = kTile;
    AQ_UNROLL
    for (int r = kTile - 1; r >= 0; --r)
      if (wanted[r] != 0) first = r;
    return first;
  }

  AQ_HOST_DEVICE static void finish_column(Shared& m, Index p, int c, int count, int r,
                                           const Row& row) {
    const float* h = m.strip[p + c];
    const float gain = row.step * (m.gradient[p + c][r] * 2.0F - row.step * h[c]);
    m.loss[r] -= static_cast<double>(gain);
    m.level[p + c][r] = row.level;
    m.change[p + c][r] = -row.step;
    for (int k = c + 1; k < count; ++k) {
      m.gradient[p + k][r] -= row.step * h[k];
      m.coupled[k][r] -= row.moved * h[k];
    }
  }
};

/// The refit of the scales of a group that is wider than a block, see RefitWide, of a tile's rows
/// together.
struct RefitCoupledWide {
  static constexpr int kThreads = 256;
  static constexpr int kDepth = 32;  ///< columns in shared memory at one time
  using Columns = float[kDepth][kPitch];
  struct Shared {
    Columns gradient, image, level;
    OutputBlock output;
    float slope[kTile][kTile];   ///< G l' of two rows
    float square[kTile][kTile];  ///< l H l' of two rows
    float along[kTile], step[kTile];
  };
  BatchView b;
  const float* image;  ///< `[batch rows, run]`
  Index group;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const TileRows rows(block, b);
    const Index begin = group * b.group;
    const Index width = begin + b.group < b.columns ? b.group : b.columns - begin;
    multiply(block, m, rows, begin, width);
    block.each_thread([&](int r) {
      if (r >= kTile) return;
      float along = 0;
      for (int k = 0; k < kTile; ++k) along += m.output[k][r] * m.slope[k][r];
      m.along[r] = along;
    });
    find_coupled_steps(
        block, m.output, m.along, m.step, [&](int r, int q) { return m.square[r][q]; },
        [&](int r, float along) {
          const Index row = rows.first + r;
          return scale_step(b, block.y, b.scale[row * b.groups + group], b.loss[row], along,
                            m.square[r][r], m.output[r][r]);
        });
    move_scales(block, m, rows, width);
  }

 private:
  static constexpr int kTurns = kTile * kTile / kThreads;

  /// Of each pair of rows that a thread has: row i + kTurns * (thread / kTile), row thread % kTile.
  struct Sums {
    float slope[kTurns] = {}, square[kTurns] = {};
  };

  /// Loads B, and forms the products of G and of the images with the levels of all rows.
  template <class Block>
  AQ_HOST_DEVICE void multiply(const Block& block, Shared& m, const TileRows& rows, Index begin,
                               Index width) const {
    typename Block::template Own<Sums> own(block);
    for (Index first = 0; first < width; first += kDepth) {
      block.each_thread([&](int thread) { load(m, rows, begin, first, width, thread); });
      block.each_thread([&](int thread) { add(m, thread, own[thread]); });
    }
    block.each_thread([&](int thread) {
      load_output(b, rows, thread, kThreads, m.output);
      AQ_UNROLL
      for (int i = 0; i < kTurns; ++i) {
        m.slope[first_row(thread) + i][thread % kTile] = own[thread].slope[i];
        m.square[first_row(thread) + i][thread % kTile] = own[thread].square[i];
      }
    });
  }

  AQ_HOST_DEVICE static int first_row(int thread) { return thread / kTile * kTurns; }

  /// Columns [first, first + kDepth) of the group; zeros behind it.
  AQ_HOST_DEVICE void load(Shared& m, const TileRows& rows, Index begin, Index first, Index width,
                           int thread) const {
    for (int i = thread; i < kTile * kDepth; i += kThreads) {
      const int r = i / kDepth, c = i % kDepth;
      const Index row = rows.first + r, at = first + c;
      const bool inside = at < width;
      m.gradient[c][r] = inside ? b.sums[row * b.run + at] : 0.0F;
      m.image[c][r] = inside ? image[row * b.run + at] : 0.0F;
      m.level[c][r] = inside ? from_bf16(b.level[row * b.stride + begin + at]) : 0.0F;
    }
  }

  AQ_HOST_DEVICE static void add(const Shared& m, int thread, Sums& sums) {
    for (int c = 0; c < kDepth; ++c) {
      const float level = m.level[c][thread % kTile];
      AQ_UNROLL
      for (int i = 0; i < kTurns; ++i) {
        sums.slope[i] += m.gradient[c][first_row(thread) + i] * level;
        sums.square[i] += m.image[c][first_row(thread) + i] * level;
      }
    }
  }

  /// Scales grow by m.step; G follows.
  template <class Block>
  AQ_HOST_DEVICE void move_scales(const Block& block, Shared& m, const TileRows& rows,
                                  Index width) const {
    block.each_thread([&](int thread) {
      for (int r = 0; r < kTile; ++r) {
        const float step = m.step[r];
        const Index row = rows.first + r;
        if (step == 0) continue;
        if (thread == 0) {
          b.scale[row * b.groups + group] += step;
          b.loss[row] -= static_cast<double>(refit_gain(step, m.slope[r][r], m.square[r][r]));
        }
        for (Index c = thread; c < width; c += kThreads)
          b.sums[row * b.run + c] -= step * image[row * b.run + c];
      }
    });
  }
};

}  // namespace aq::cuda
