#include "quant/cpu/hessian.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "aq/core/parallel.h"
#include "aq/quant/workspace.h"
#include "quant/cpu/aligned_floats.h"
#include "quant/cpu/tile_kernel.h"
#include "quant/hessian_panels.h"

namespace aq {
namespace {

constexpr Index kTokens = 1024;     ///< tokens worked on at once: their columns stay in the cache
constexpr Index kMostLanes = 16;    ///< of any kernel
constexpr Index kRowsAtOnce = 256;  ///< rows of a panel that one thread works on

/// Copies rows of x into sets of `lanes` columns, each `[tokens, lanes]`.
void pack_columns(MatrixView<const float> x, Index lanes, Index set, float* packed) {
  float* out = packed + set * lanes * x.rows;
  const Index first = set * lanes;
  const Index count = std::min(lanes, x.columns - first);
  for (Index t = 0; t < x.rows; ++t) {
    const float* from = x.data + t * x.stride + first;
    std::copy_n(from, count, out + t * lanes);
    std::fill(out + t * lanes + count, out + (t + 1) * lanes, 0.0F);
  }
}

/// All pieces of the triangle, large ones first.
std::vector<HessianJob> pieces(Index columns, float* values) {
  std::vector<HessianJob> jobs;
  for (Index j = 0; j < ceil_div(columns, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(columns, j);
    for (Index r = panel.first; r < columns; r += kRowsAtOnce) {
      jobs.push_back({nullptr, 0, panel.first, panel.width, r, std::min(columns, r + kRowsAtOnce),
                      values + panel.offset});
    }
  }
  return jobs;
}

/// Calls body(i) for i in [0, count) on one thread or on all.
void for_each(bool parallel, Index count, const std::function<void(Index)>& body) {
  if (parallel) return parallel_for(count, body);
  for (Index i = 0; i < count; ++i) body(i);
}

}  // namespace

Index hessian_size(Index columns) {
  return hessian_panel(columns, ceil_div(columns, kHessianPanel)).offset;
}

void gather_scaled_reversed(MatrixView<const float> x, std::span<const std::int32_t> token_rows,
                            std::span<const float> weights, MatrixView<float> out) {
  const Index tokens = token_rows.empty() ? x.rows : std::ssize(token_rows);
  AQ_CHECK(out.rows == tokens && out.columns == x.columns, out.rows, " x ", out.columns);
  AQ_CHECK(weights.empty() || std::ssize(weights) == tokens, weights.size(), " weights");
  for (Index t = 0; t < tokens; ++t) {
    const auto i = static_cast<std::size_t>(t);
    const Index row = token_rows.empty() ? t : token_rows[i];
    AQ_CHECK(row >= 0 && row < x.rows, "token row ", row, " of ", x.rows);
    const float* from = x.data + row * x.stride;
    float* to = out.data + t * out.stride;
    const float factor = weights.empty() ? 1.0F : std::sqrt(weights[i]);
    const Index last = x.columns - 1;
    for (Index c = 0; c <= last; ++c) to[c] = factor * from[last - c];
  }
}

Index hessian_workspace_bytes(Index columns, Index tokens) {
  return round_up(columns, kMostLanes) * std::min(kTokens, tokens) *
         static_cast<Index>(sizeof(float));
}

void accumulate_hessian(WeightedSum& sum, MatrixView<const float> scaled_reversed,
                        double weight_sum, bool parallel) {
  const Index columns = scaled_reversed.columns;
  if (scaled_reversed.rows == 0) return;
  sum.make_room(hessian_size(columns));
  static thread_local AlignedFloats memory;
  const TileKernel& kernel = tile_kernel();
  const Index lanes = kernel.lanes;
  const Index sets = ceil_div(columns, lanes);
  float* packed = memory.take(sets * lanes * std::min(kTokens, scaled_reversed.rows));
  std::vector<HessianJob> jobs = pieces(columns, sum.values.data());
  for (Index t = 0; t < scaled_reversed.rows; t += kTokens) {
    const auto x = scaled_reversed.slice_rows(t, std::min(kTokens, scaled_reversed.rows - t));
    for_each(parallel, sets, [&](Index set) { pack_columns(x, lanes, set, packed); });
    for_each(parallel, std::ssize(jobs), [&](Index i) {
      HessianJob& job = jobs[i];
      job.packed = packed;
      job.tokens = x.rows;
      kernel.add_products(job);
    });
  }
  sum.weight_sum += weight_sum;
  sum.tokens += scaled_reversed.rows;
}

namespace {

/// Calls body(i, r, c) for every element that the layout uses: place i of the values, and its
/// natural row r and column c >= r.
template <class Body>
void for_each_element(Index columns, const Body& body) {
  const Index last = columns - 1;
  for (Index j = 0; j < ceil_div(columns, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(columns, j);
    for (Index r = panel.first; r < columns; ++r)
      for (Index c = panel.first; c < std::min(r + 1, panel.first + panel.width); ++c)
        body(static_cast<std::size_t>(panel.row_offset(r) + c - panel.first), last - r, last - c);
  }
}

/// Place of element (r, c >= r) of the upper triangle row by row.
std::size_t upper_place(Index columns, Index r, Index c) {
  return static_cast<std::size_t>(r * columns - r * (r - 1) / 2 + c - r);
}

}  // namespace

Matrix hessian_natural(const WeightedSum& sum, Index columns) {
  Matrix h(columns, columns);
  if (sum.values.empty()) return h;
  AQ_CHECK(std::ssize(sum.values) == hessian_size(columns), sum.values.size(), " floats");
  for_each_element(columns, [&](std::size_t i, Index r, Index c) {
    h(r, c) = sum.values[i];
    h(c, r) = sum.values[i];
  });
  return h;
}

std::vector<float> hessian_upper(const WeightedSum& sum, Index columns) {
  if (sum.values.empty()) return {};
  AQ_CHECK(std::ssize(sum.values) == hessian_size(columns), sum.values.size(), " floats");
  std::vector<float> upper(columns * (columns + 1) / 2);
  for_each_element(columns, [&](std::size_t i, Index r, Index c) {
    upper[upper_place(columns, r, c)] = sum.values[i];
  });
  return upper;
}

FloatArray hessian_values(std::span<const float> upper, Index columns) {
  if (upper.empty()) return {};
  AQ_CHECK(std::ssize(upper) == columns * (columns + 1) / 2, upper.size(), " floats");
  FloatArray values(hessian_size(columns), 0.0F);
  for_each_element(columns, [&](std::size_t i, Index r, Index c) {
    values[i] = upper[upper_place(columns, r, c)];
  });
  return values;
}

}  // namespace aq
