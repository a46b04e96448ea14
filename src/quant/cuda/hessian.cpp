#include "quant/cuda/hessian.h"

#include "quant/hessian_panels.h"

namespace aq::cuda {
namespace {

constexpr Index kTokens = 4096;  ///< on the device at once

/// The transpose of some rows as pairs, `[columns, kTokens]`.
void split_transposed(Accelerator& device, MatrixView<const float> x, const DevicePairs& to) {
  const std::size_t width = static_cast<std::size_t>(x.columns) * sizeof(float);
  const DeviceArray<float> rows(device, x.rows * x.columns);
  device.upload(rows.data(), width, x.data, static_cast<std::size_t>(x.stride) * sizeof(float),
                width, x.rows);
  device.launch(SplitTransposed{rows.data(), x.rows, x.columns, to.view(), kTokens},
                SplitTransposed::grid(x.rows, x.columns));
}

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
  sum.make_room(hessian_size(columns));
  DeviceArray<float> values(device, std::span<const float>(sum.values));
  DevicePairs transposed(device, columns * kTokens);
  for (Index first = 0; first < scaled_reversed.rows; first += kTokens) {
    const auto x =
        scaled_reversed.slice_rows(first, std::min(kTokens, scaled_reversed.rows - first));
    split_transposed(device, x, transposed);
    add_products(device, transposed, columns, x.rows, values);
  }
  device.download(sum.values.data(), values.data(), values.bytes());
  sum.weight_sum += weight_sum;
  sum.tokens += scaled_reversed.rows;
}

void accumulate_cross(Accelerator& device, WeightedSum& sum, const CrossTokens& tokens,
                      double weight_sum) {
  const Index rows = tokens.d.columns, columns = tokens.x.columns, count = tokens.x.rows;
  if (count == 0) return;
  sum.make_room(rows * columns);
  DeviceArray<float> values(device, std::span<const float>(sum.values));
  const DevicePairs d(device, rows * kTokens), x(device, columns * kTokens);
  const DeviceArray<PairArray> a = table_of(device, d.view(), 0, 1);
  const DeviceArray<PairArray> b = table_of(device, x.view(), 0, 1);
  const DeviceArray<float*> c = table_of(device, values.data(), 0, 1);
  for (Index first = 0; first < count; first += kTokens) {
    const Index depth = std::min(kTokens, count - first);
    split_transposed(device, tokens.d.view().slice_rows(first, depth), d);
    split_transposed(device, tokens.x.view().slice_rows(first, depth), x);
    device.multiply({.batch = 1,
                     .rows = rows,
                     .columns = columns,
                     .depth = depth,
                     .a = a.data(),
                     .a_offset = 0,
                     .a_stride = kTokens,
                     .b = b.data(),
                     .b_offset = 0,
                     .b_stride = kTokens,
                     .c = c.data(),
                     .c_offset = 0,
                     .c_stride = columns,
                     .add = true});
  }
  device.download(sum.values.data(), values.data(), values.bytes());
  sum.weight_sum += weight_sum;
  sum.tokens += count;
}

}  // namespace aq::cuda
