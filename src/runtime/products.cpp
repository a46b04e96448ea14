#include "runtime/products.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"

namespace aq::runtime {
namespace {

/// A tensor over the memory of `view`. LibTorch knows no read-only tensors: one made from a view of
/// constants is only passed where an operator reads.
at::Tensor as_tensor(MatrixView<const float> view) {
  return at::from_blob(const_cast<float*>(view.data), {view.rows, view.columns}, {view.stride, 1},
                       at::TensorOptions().dtype(at::kFloat));
}

void product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  at::get_num_threads();  // hands initialize()'s thread count on to a thread that is new here
  at::Tensor result = out;
  at::mm_out(result, a, b);
}

}  // namespace

void multiply(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> out) {
  const c10::InferenceMode no_gradients;
  product(as_tensor(a), as_tensor(b), as_tensor(out));
}

void multiply_transposed(MatrixView<const float> a, MatrixView<const float> b,
                         MatrixView<float> out) {
  const c10::InferenceMode no_gradients;
  product(as_tensor(a), as_tensor(b).t(), as_tensor(out));
}

void linear(MatrixView<const float> x, MatrixView<const float> weight, MatrixView<float> out) {
  AQ_CHECK(x.columns == weight.columns && out.rows == x.rows && out.columns == weight.rows, "x [",
           x.rows, ", ", x.columns, "], weight [", weight.rows, ", ", weight.columns, "], out [",
           out.rows, ", ", out.columns, "]");
  AQ_CHECK(x.columns > 0, "an empty sum");
  if (out.rows > 0 && out.columns > 0) multiply_transposed(x, weight, out);
}

}  // namespace aq::runtime
