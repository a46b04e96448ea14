#include "aq/quant/hessian.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "aq/core/parallel.h"
#include "quant/cpu/hessian_panels.h"

namespace aq {
namespace {

/// One panel of sum += XᵀX, X `[tokens, columns]`: the diagonal block, then the rows below it.
void accumulate_panel(const HessianPanel& panel, MatrixView<const float> x, float* values) {
  const int width = static_cast<int>(panel.width);
  const int below = static_cast<int>(x.columns - panel.first - panel.width);
  const int tokens = static_cast<int>(x.rows);
  const int stride = static_cast<int>(x.stride);
  const float* columns = x.data + panel.first;
  float* block = values + panel.offset;
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, width, tokens, 1.0F, columns, stride, 1.0F,
              block, width);
  if (below == 0) return;
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, below, width, tokens, 1.0F, columns + width,
              stride, columns, stride, 1.0F, block + panel.width * panel.width, width);
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

void accumulate_hessian(WeightedSum& sum, MatrixView<const float> scaled_reversed,
                        double weight_sum, bool parallel) {
  const Index columns = scaled_reversed.columns;
  if (scaled_reversed.rows == 0) return;
  const auto size = static_cast<std::size_t>(hessian_size(columns));
  if (sum.values.empty()) sum.values.resize(size);
  AQ_CHECK(sum.values.size() == size, sum.values.size(), " floats for ", columns, " columns");
  const auto body = [&](Index j) {
    accumulate_panel(hessian_panel(columns, j), scaled_reversed, sum.values.data());
  };
  const Index panels = ceil_div(columns, kHessianPanel);
  if (parallel) {
    parallel_for(panels, body);
  } else {
    for (Index j = 0; j < panels; ++j) body(j);
  }
  sum.weight_sum += weight_sum;
  sum.tokens += scaled_reversed.rows;
}

Matrix hessian_natural(const WeightedSum& sum, Index columns) {
  Matrix h(columns, columns);
  if (sum.values.empty()) return h;
  AQ_CHECK(std::ssize(sum.values) == hessian_size(columns), sum.values.size(), " floats");
  const Index last = columns - 1;
  for (Index j = 0; j < ceil_div(columns, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(columns, j);
    for (Index r = panel.first; r < columns; ++r) {
      const float* row = sum.values.data() + panel.row_offset(r);
      for (Index c = panel.first; c < std::min(r + 1, panel.first + panel.width); ++c) {
        h(last - r, last - c) = row[c - panel.first];
        h(last - c, last - r) = row[c - panel.first];
      }
    }
  }
  return h;
}

}  // namespace aq
