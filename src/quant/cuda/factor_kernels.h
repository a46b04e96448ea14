#pragma once
/// Kernels of a factor: the damped matrix from a sum, its Cholesky factor block by block, and what
/// row kernels read. Every kernel works on the matrices of a batch, one for each block.y.

#include "quant/cuda/block.h"
#include "quant/cuda/views.h"
#include "quant/hessian_panels.h"

namespace aq::cuda {

/// A sum that is factored, in the memory of the device.
struct SumView {
  const float* values = nullptr;        ///< the sum's layout (aq/quant/hessian.h)
  const std::int32_t* order = nullptr;  ///< null: columns as they are stored
  float scale = 1;                      ///< 1 / weight_sum
  float dead = 0;                       ///< what takes the place of a diagonal of 0
  float added = 0;                      ///< to the diagonal
};

/// Element (i, j) of the damped matrix in natural order.
AQ_HOST_DEVICE float damped_element(const SumView& sum, Index n, Index i, Index j) {
  const Index r = n - 1 - (i < j ? i : j);
  const Index c = n - 1 - (i < j ? j : i);
  const HessianPanel panel = hessian_panel(n, c / kHessianPanel);
  float value = sum.values[panel.row_offset(r) + c - panel.first] * sum.scale;
  if (i == j) value = (value == 0 ? sum.dead : value) + sum.added;
  return value;
}

/// The lower triangle of the damped matrix with columns in order and reversed; a unit matrix beyond
/// column n.
struct FillLower {
  static constexpr int kThreads = 128;
  struct Shared {};
  const SumView* sums;
  const FactorView* factors;
  Index n, stride;

  /// A row for each block.x.
  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const SumView& sum = sums[block.y];
    float* row = factors[block.y].lower + block.x * stride;
    const Index i = stride - 1 - block.x;
    block.each_thread([&](int thread) {
      for (Index c = thread; c < stride; c += kThreads) {
        const Index j = stride - 1 - c;
        float value = 0;
        if (c == block.x && i >= n) value = 1;
        if (c <= block.x && i < n && j < n)
          value = sum.order == nullptr ? damped_element(sum, n, i, j)
                                       : damped_element(sum, n, sum.order[i], sum.order[j]);
        row[c] = value;
      }
    });
  }
};

/// The damped matrix in natural order, whole; zeros beyond column n.
struct FillHessian {
  static constexpr int kThreads = 128;
  struct Shared {};
  const SumView* sums;
  const FactorView* factors;
  Index n, stride;

  /// A row for each block.x.
  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const SumView& sum = sums[block.y];
    const PairArray row = factors[block.y].h.from(block.x * stride);
    block.each_thread([&](int thread) {
      for (Index j = thread; j < stride; j += kThreads)
        row.set(j, block.x < n && j < n ? damped_element(sum, n, block.x, j) : 0.0F);
    });
  }
};

/// The Cholesky factor of a diagonal block and its inverse, in registers: thread (y, x) of 16 x 16
/// has the elements (y + 16 p, x + 16 q) of both. Column by column, the factor's column and the
/// inverse's row go through shared memory.
struct FactorDiagonal {
  static constexpr int kThreads = 256;
  static constexpr int kSide = 16, kPieces = static_cast<int>(kBlock) / kSide;
  struct Shared {
    float column[kBlock], row[kBlock];
  };
  struct Elements {
    float a[kPieces][kPieces], inverse[kPieces][kPieces];
  };
  const FactorView* factors;
  float* inverses;  ///< `[batch, kBlock, kBlock]`
  int* failed;      ///< `[batch]`, set where the matrix is not positive definite
  Index first, stride;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    float* corner = factors[block.y].lower + first * stride + first;
    float* inverse = inverses + block.y * kBlock * kBlock;
    typename Block::template Own<Elements> own(block);
    block.each_thread([&](int thread) { load(own[thread], corner, thread); });
    AQ_UNROLL
    for (int piece = 0; piece < kPieces; ++piece) AQ_NO_UNROLL
    for (int within = 0; within < kSide; ++within) {
      block.each_thread([&](int thread) { publish(own[thread], m, piece, within, thread); });
      block.each_thread([&](int thread) {
        const bool positive = eliminate(own[thread], m, piece, within, thread);
        if (!positive && thread == 0) failed[block.y] = 1;
      });
    }
    block.each_thread([&](int thread) {
      Elements& e = own[thread];
      const int y = thread / kSide, x = thread % kSide;
      AQ_UNROLL
      for (int p = 0; p < kPieces; ++p) AQ_UNROLL
      for (int q = 0; q < kPieces; ++q) {
        const int i = y + kSide * p, j = x + kSide * q;
        if (i >= j) corner[i * stride + j] = e.a[p][q];
        inverse[i * kBlock + j] = i >= j ? e.inverse[p][q] : 0.0F;
      }
    });
  }

 private:
  AQ_HOST_DEVICE void load(Elements& e, const float* corner, int thread) const {
    const int y = thread / kSide, x = thread % kSide;
    AQ_UNROLL
    for (int p = 0; p < kPieces; ++p) AQ_UNROLL
    for (int q = 0; q < kPieces; ++q) {
      const int i = y + kSide * p, j = x + kSide * q;
      e.a[p][q] = i >= j ? corner[i * stride + j] : 0.0F;
      e.inverse[p][q] = i == j ? 1.0F : 0.0F;
    }
  }

  /// Column j of what is left of the matrix, and row j of the inverse so far.
  static AQ_HOST_DEVICE void publish(Elements& e, Shared& m, int piece, int within, int thread) {
    const int y = thread / kSide, x = thread % kSide;
    if (x == within) {
      AQ_UNROLL
      for (int p = 0; p < kPieces; ++p)
        if (p >= piece) m.column[y + kSide * p] = e.a[p][piece];
    }
    if (y == within) {
      AQ_UNROLL
      for (int q = 0; q < kPieces; ++q)
        if (q <= piece) m.row[x + kSide * q] = e.inverse[piece][q];
    }
  }

  /// @return whether the pivot is positive and finite
  static AQ_HOST_DEVICE bool eliminate(Elements& e, const Shared& m, int piece, int within,
                                       int thread) {
    const int y = thread / kSide, x = thread % kSide;
    const int j = piece * kSide + within;
    float pivot = m.column[j];
    const bool positive = pivot > 0 && pivot < 3e38F;
    if (!positive) pivot = 1;
    const float root = __builtin_sqrtf(pivot);
    const float reciprocal = 1 / pivot;
    AQ_UNROLL
    for (int p = 0; p < kPieces; ++p) {
      const int i = y + kSide * p;
      if (p < piece || i <= j) continue;
      const float factor = m.column[i] * reciprocal;
      AQ_UNROLL
      for (int q = 0; q < kPieces; ++q) {
        const int k = x + kSide * q;
        if (q >= piece && q <= p && k > j) e.a[p][q] -= factor * m.column[k];
        if (q <= piece && k <= j) e.inverse[p][q] -= factor * m.row[k];
      }
    }
    if (x == within) {
      AQ_UNROLL
      for (int p = 0; p < kPieces; ++p)
        if (p >= piece && y + kSide * p >= j) e.a[p][piece] /= root;
    }
    if (y == within) {
      AQ_UNROLL
      for (int q = 0; q < kPieces; ++q)
        if (q <= piece && x + kSide * q <= j) e.inverse[piece][q] /= root;
    }
    return positive;
  }
};

/// Columns [first, first + kBlock) of L below their diagonal block, A (L_BB)^-T, and those columns
/// as pairs.
struct FactorPanel {
  static constexpr int kThreads = static_cast<int>(kBlock);
  static constexpr int kStrip = 8;
  struct Shared {
    float row[kBlock][kBlock + 1];
    float strip[kBlock][kStrip];
  };
  const FactorView* factors;
  PairArray pairs;  ///< L, `[batch, stride, stride]`
  const float* inverses;
  Index first, stride;

  /// kThreads rows from `first` on for each block.x; the first of them are the diagonal block.
  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index top = first + block.x * kThreads;
    float* a = factors[block.y].lower + top * stride + first;
    const float* inverse = inverses + block.y * kBlock * kBlock;
    block.each_thread([&](int thread) {
      for (Index r = 0; r < kThreads; ++r) m.row[r][thread] = a[r * stride + thread];
    });
    // From the last column back: a column needs those before it as they were.
    for (Index c = kBlock - kStrip; c >= 0 && block.x > 0; c -= kStrip) {
      block.each_thread([&](int k) {
        for (Index i = 0; i < kStrip; ++i) m.strip[k][i] = inverse[(c + i) * kBlock + k];
      });
      block.each_thread([&](int r) {
        float sum[kStrip] = {};
        for (Index k = 0; k < c + kStrip; ++k) AQ_UNROLL
        for (int i = 0; i < kStrip; ++i) sum[i] += m.row[r][k] * m.strip[k][i];
        for (int i = 0; i < kStrip; ++i) m.row[r][c + i] = sum[i];
      });
    }
    const PairArray out = pairs.from((block.y * stride + top) * stride + first);
    block.each_thread([&](int thread) {
      for (Index r = 0; r < kThreads; ++r) {
        const bool inside = block.x > 0 || r >= thread;
        const float value = inside ? m.row[r][thread] : 0.0F;
        a[r * stride + thread] = value;
        out.set(r * stride + thread, value);
      }
    });
  }
};

/// U' as pairs from L.
struct FillUpper {
  static constexpr int kThreads = 128;
  static constexpr int kSide = 32;
  struct Shared {
    float tile[kSide][kSide + 1];
  };
  const FactorView* factors;
  Index stride;

  /// A tile of kSide x kSide for each block.x.
  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const FactorView& factor = factors[block.y];
    const Index tiles = stride / kSide;
    const Index j0 = block.x / tiles * kSide, i0 = block.x % tiles * kSide;
    block.each_thread([&](int thread) {
      for (int e = thread; e < kSide * kSide; e += kThreads) {
        const int i = e / kSide, j = e % kSide;
        const Index row = stride - 1 - (i0 + i), column = stride - 1 - (j0 + j);
        m.tile[j][i] = row >= column ? factor.lower[row * stride + column] : 0.0F;
      }
    });
    block.each_thread([&](int thread) {
      for (int e = thread; e < kSide * kSide; e += kThreads) {
        const int j = e / kSide, i = e % kSide;
        factor.upper.set((j0 + j) * stride + i0 + i, m.tile[j][i]);
      }
    });
  }
};

}  // namespace aq::cuda
