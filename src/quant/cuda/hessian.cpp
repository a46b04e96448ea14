#include "quant/cuda/hessian.h"

#include "quant/hessian_panels.h"

namespace aq::cuda {
namespace {

constexpr Index kTokens = 4096;  ///< on the device at once

/// The panels of the sum += X'X, from X' as pairs, `[columns, kTokens]`.
void add_products(Accelerator& device, const DevicePairs& transposed, Index columns, Index tokens,
                  DeviceArray<float>& values) {
  const DeviceArray<PairArray> x = table_of(device, transposed.view(), 0, 1);
  const DeviceArray<float*> sums = table_of(device, values.data(), 0, 1);
  for (Index j = 0; j < ceil_div(columns, kHessianPanel); ++j) {
    const HessianPanel panel = hessian_panel(columns, j);
    device.multiply({.batch = 1,
                     .rows = columns - panel.first,
                     .columns = panel.width,
                     .depth = tokens,
                     .a = x.data(),
                     .a_offset = panel.first * kTokens,
                     .a_stride = kTokens,
                     .b = x.data(),
                     .b_offset = panel.first * kTokens,
                     .b_stride = kTokens,
                     .c = sums.data(),
                     .c_offset = panel.offset,
                     .c_stride = panel.width,
                     .add = true});
  }
}

}  // namespace

void accumulate_hessian(Accelerator& device, WeightedSum& sum,
                        MatrixView<const float> scaled_reversed, double weight_sum) {
  const Index columns = scaled_reversed.columns;
  if (scaled_reversed.rows == 0) return;
  const auto size = static_cast<std::size_t>(hessian_size(columns));
  if (sum.values.empty()) sum.values.assign(size, 0.0F);
  AQ_CHECK(sum.values.size() == size, sum.values.size(), " floats for ", columns, " columns");
  DeviceArray<float> values(device, std::span<const float>(sum.values));
  DevicePairs transposed(device, columns * kTokens);
  for (Index first = 0; first < scaled_reversed.rows; first += kTokens) {
    const auto x =
        scaled_reversed.slice_rows(first, std::min(kTokens, scaled_reversed.rows - first));
    const std::size_t width = static_cast<std::size_t>(columns) * sizeof(float);
    const DeviceArray<float> rows(device, x.rows * columns);
    device.upload(rows.data(), width, x.data, static_cast<std::size_t>(x.stride) * sizeof(float),
                  width, x.rows);
    device.launch(SplitTransposed{rows.data(), x.rows, columns, transposed.view(), kTokens},
                  SplitTransposed::grid(x.rows, columns));
    add_products(device, transposed, columns, x.rows, values);
  }
  device.download(sum.values.data(), values.data(), values.bytes());
  sum.weight_sum += weight_sum;
  sum.tokens += scaled_reversed.rows;
}

}  // namespace aq::cuda
