#include "aq/quant/output_factor.h"

#include <algorithm>
#include <cmath>

#include "aq/core/error.h"
#include "quant/blas.h"

namespace aq {

void add_outputs(MatrixView<const float> g, Index first_row, MatrixView<float> sum) {
  AQ_CHECK(sum.rows == g.columns && sum.columns == kRowTile, "sum [", sum.rows, ", ", sum.columns,
           "] of ", g.columns, " outputs");
  constexpr float kOne = 1;
  const auto tokens = checked_cast<int>(g.rows), stride = checked_cast<int>(g.stride);
  const auto sum_stride = checked_cast<int>(sum.stride);
  for (Index begin = 0; begin < g.columns;) {
    const Index at = (first_row + begin) % kRowTile;
    const Index width = std::min(kRowTile - at, g.columns - begin);
    const auto count = checked_cast<int>(width);
    const float* columns = g.data + begin;
    sgemm_("N", "T", &count, &count, &tokens, &kOne, columns, &stride, columns, &stride, &kOne,
           sum.row(begin).data() + at, &sum_stride);
    begin += width;
  }
}

void output_block(MatrixView<const float> rows, std::int64_t tokens, float* block) {
  const MatrixView<float> out(block, kRowTile, kRowTile);
  double trace = 0;
  bool counts = true;
  for (Index r = 0; r < rows.rows; ++r) {
    trace += static_cast<double>(rows(r, r));
    counts = counts && rows(r, r) >= 0;
  }
  const double mean = trace / static_cast<double>(rows.rows);
  counts = counts && std::isfinite(mean) && mean > 0;
  const double damping =
      kOutputDamping +
      static_cast<double>(kRowTile) / static_cast<double>(std::max<std::int64_t>(tokens, 1));
  std::fill_n(block, kRowTile * kRowTile, 0.0F);
  for (Index r = 0; r < kRowTile; ++r) {
    out(r, r) = 1;
    if (r >= rows.rows || !counts) continue;
    for (Index c = 0; c < r; ++c)
      out(r, c) = out(c, r) = static_cast<float>(static_cast<double>(rows(r, c)) / mean);
    out(r, r) = static_cast<float>(static_cast<double>(rows(r, r)) / mean + damping);
  }
}

}  // namespace aq
