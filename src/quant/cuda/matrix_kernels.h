#pragma once
/// Kernels over whole rows: orders of columns, E, packed codes, and the figures of a result. A row
/// of the task for each block.x unless they say otherwise.

#include "quant/cuda/block.h"
#include "quant/cuda/views.h"
#include "quant/row_kernel.h"

namespace aq::cuda {

/// The transpose of a matrix, as pairs. A tile of kSide x kSide for each block.
struct SplitTransposed {
  static constexpr int kThreads = 256;
  static constexpr int kSide = 32;
  struct Shared {
    float tile[kSide][kSide + 1];
  };
  const float* from;  ///< `[rows, columns]`
  Index rows, columns;
  PairArray to;  ///< `[columns, stride]`
  Index stride;

  static Grid2 grid(Index rows, Index columns) {
    return {ceil_div(rows, Index{kSide}), ceil_div(columns, Index{kSide})};
  }

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index r0 = block.x * kSide, c0 = block.y * kSide;
    block.each_thread([&](int thread) {
      for (int e = thread; e < kSide * kSide; e += kThreads) {
        const int r = e / kSide, c = e % kSide;
        if (r0 + r < rows && c0 + c < columns) m.tile[c][r] = from[(r0 + r) * columns + c0 + c];
      }
    });
    block.each_thread([&](int thread) {
      for (int e = thread; e < kSide * kSide; e += kThreads) {
        const int c = e / kSide, r = e % kSide;
        if (r0 + r < rows && c0 + c < columns) to.set((c0 + c) * stride + r0 + r, m.tile[c][r]);
      }
    });
  }
};

/// Weights in the order of rounding.
struct OrderColumns {
  static constexpr int kThreads = 128;
  struct Shared {};
  BatchView b;
  const float* natural;
  float* ordered;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const std::int32_t* order = b.tasks[block.y].factor.order;
    const Index at = (block.y * b.rows + block.x) * b.stride;
    block.each_thread([&](int thread) {
      for (Index i = thread; i < b.columns; i += kThreads) ordered[at + i] = natural[at + order[i]];
    });
  }
};

/// Levels in the order in which they are stored.
struct RestoreOrder {
  static constexpr int kThreads = 128;
  struct Shared {};
  BatchView b;
  const std::uint16_t* ordered;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const std::int32_t* order = b.tasks[block.y].factor.order;
    const Index at = (block.y * b.rows + block.x) * b.stride;
    block.each_thread([&](int thread) {
      for (Index i = thread; i < b.columns; i += kThreads) b.level[at + order[i]] = ordered[at + i];
    });
  }
};

/// E = w - q of columns [first, first + width).
struct FormError {
  static constexpr int kThreads = 128;
  struct Shared {};
  BatchView b;
  Index first, width;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const Index row = block.y * b.rows + block.x;
    block.each_thread([&](int thread) {
      for (Index c = first + thread; c < first + width; c += kThreads) {
        const Index at = row * b.stride + c;
        const float scale = b.scale[row * b.groups + c / b.group];
        b.error.set(at, b.weight[at] - from_bf16(b.level[at]) * scale);
      }
    });
  }
};

/// Every kErrorRowStride-th row: its weights, and the errors of rounding it to the nearest with
/// absmax scales, in the order of the factor's columns. A sampled row for each block.x.
template <class Levels>
struct SampleRows {
  static constexpr int kThreads = 128;
  struct Shared {};
  Levels levels;
  BatchView b;                          ///< weights as they are stored
  float *scratch_scale, *scratch_zero;  ///< `[batch samples, groups]`
  PairArray sampled;  ///< `[tasks, 2 * samples, stride]`: all weights, then all errors
  Index samples;      ///< of a task

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    const TaskView& task = b.tasks[block.y];
    const Index from = block.y * b.rows + block.x * kErrorRowStride;
    const float* weight = b.weight + from * b.stride;
    float* scale = scratch_scale + (block.y * samples + block.x) * b.groups;
    float* zero = scratch_zero + (block.y * samples + block.x) * b.groups;
    block.each_thread([&](int thread) {
      GridSearch plain = task.grids;
      plain.search = false;
      for (Index group = thread; group < b.groups; group += kThreads) {
        const Index begin = group * b.group;
        const Index end = begin + b.group < b.columns ? begin + b.group : b.columns;
        scale[group] = task.fixed_scale;
        zero[group] = task.fixed_zero;
        if (task.fixed_scale > 0) continue;
        const RowGrid<float> grid = fit_row(levels, plain, weight + begin, end - begin, nullptr);
        scale[group] = grid.scale;
        zero[group] = grid.zero;
      }
    });
    const Index weights_at = (block.y * 2 * samples + block.x) * b.stride;
    const Index errors_at = weights_at + samples * b.stride;
    block.each_thread([&](int thread) {
      for (Index i = thread; i < b.stride; i += kThreads) {
        const Index c = task.factor.order != nullptr && i < b.columns ? task.factor.order[i] : i;
        const float w = c < b.columns ? weight[c] : 0.0F;
        const Index group = c < b.columns ? c / b.group : 0;
        const RowGrid<float> grid{scale[group], 1 / scale[group], zero[group]};
        sampled.set(weights_at + i, w);
        sampled.set(errors_at + i,
                    c < b.columns ? w - nearest_level(levels, grid, w) * grid.scale : 0.0F);
      }
    });
  }
};

/// norms += the squared norms of rows. A row for each block.x, a task for each block.y.
struct AddSquares {
  static constexpr int kThreads = 128;
  struct Shared {
    double sum[kThreads];
  };
  const float* values;  ///< `[tasks, rows, stride]`
  Index rows, stride, width;
  double* norms;  ///< `[tasks, rows]`

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index row = block.y * rows + block.x;
    block.each_thread([&](int thread) {
      double sum = 0;
      for (Index c = thread; c < width; c += kThreads) {
        const auto value = static_cast<double>(values[row * stride + c]);
        sum += value * value;
      }
      m.sum[thread] = sum;
    });
    block.each_thread([&](int thread) {
      if (thread > 0) return;
      double sum = 0;
      for (const double part : m.sum) sum += part;
      norms[row] += sum;
    });
  }
};

/// Codes as they are stored, and the squared norms of w - q and of w.
struct FinishRows {
  static constexpr int kThreads = 128;
  struct Shared {
    double error[kThreads], norm[kThreads];
  };
  BatchView b;  ///< weights as they are stored
  Element element;
  int bits;
  Index words;           ///< of a row
  std::uint32_t* codes;  ///< `[batch rows, words]`
  double *weight_error, *weight_norm;

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index row = block.y * b.rows + block.x;
    block.each_thread([&](int thread) {
      for (Index w = thread; w < words; w += kThreads) codes[row * words + w] = word(row, w);
      double error = 0, norm = 0;
      for (Index c = thread; c < b.columns; c += kThreads) {
        const float weight = b.weight[row * b.stride + c];
        const float stored =
            from_bf16(b.level[row * b.stride + c]) * b.scale[row * b.groups + c / b.group];
        const double difference = static_cast<double>(weight) - static_cast<double>(stored);
        error += difference * difference;
        norm += static_cast<double>(weight) * static_cast<double>(weight);
      }
      m.error[thread] = error;
      m.norm[thread] = norm;
    });
    block.each_thread([&](int thread) {
      if (thread > 0) return;
      double error = 0, norm = 0;
      for (int i = 0; i < kThreads; ++i) {
        error += m.error[i];
        norm += m.norm[i];
      }
      weight_error[row] = error;
      weight_norm[row] = norm;
    });
  }

 private:
  AQ_HOST_DEVICE std::uint32_t code(Index row, Index c) const {
    const float level = from_bf16(b.level[row * b.stride + c]);
    if (element != Element::integer) return element_code(element, level);
    return static_cast<std::uint32_t>(level + b.zero[row * b.groups + c / b.group]);
  }

  /// Word w of a row's bit stream; see pack_row().
  AQ_HOST_DEVICE std::uint32_t word(Index row, Index w) const {
    std::uint32_t out = 0;
    const Index begin = w * 32;
    for (Index c = begin / bits; c < b.columns && c * bits < begin + 32; ++c) {
      const Index shift = c * bits - begin;
      const std::uint32_t value = code(row, c);
      out |= shift >= 0 ? value << shift : value >> -shift;
    }
    return out;
  }
};

}  // namespace aq::cuda
