#include "runtime/products.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>

#include "aq/core/error.h"
#include "aq/runtime/operations.h"
#include "runtime/held_tensor.h"

namespace aq::runtime {
namespace {

/// A tensor over the memory of `view`. LibTorch knows no read-only tensors: one made from a view of
/// constants is only passed where an operator reads.
at::Tensor as_tensor(MatrixView<const float> view) {
  return at::from_blob(const_cast<float*>(view.data), {view.rows, view.columns}, {view.stride, 1},
                       at::TensorOptions().dtype(at::kFloat));
}

/// Hands initialize()'s thread count on to a thread that is new here.
void take_thread_count() {
  at::get_num_threads();
}

void product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  take_thread_count();
  at::Tensor result = out;
  at::mm_out(result, a, b);
}

/// out = x · factor, whose elements are those of x.
void product(const Tensor& x, const at::Tensor& factor, Tensor out) {
  const c10::InferenceMode no_gradients;
  if (x.kind() == out.kind()) return product(x.held().tensor, factor, out.held().tensor);
  // oneDNN compiles a kernel for each number of rows and keeps it: few numbers, and rows more.
  const Index rows = round_up(x.rows(), x.rows() > 256 ? Index{64} : Index{16});
  Tensor padded;
  if (rows != x.rows()) {
    padded = Tensor::zeros(rows, x.columns(), x.kind());
    copy(x, padded.window({0, x.rows()}));
  }
  const Tensor narrow(rows, out.columns(), x.kind());
  product((rows == x.rows() ? x : padded).held().tensor, factor, narrow.held().tensor);
  copy(narrow.window({0, x.rows()}), out.window());
}

/// x [rows, columns], weight [outputs, inputs], out [tokens, width].
void check_linear(Index rows, Index columns, Index outputs, Index inputs, Index tokens,
                  Index width) {
  AQ_CHECK(columns == inputs && tokens == rows && width == outputs, "x [", rows, ", ", columns,
           "], weight [", outputs, ", ", inputs, "], out [", tokens, ", ", width, "]");
  AQ_CHECK(columns > 0, "an empty sum");
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

void add_product_of_transposed(MatrixView<const float> a, MatrixView<const float> b,
                               MatrixView<float> out) {
  const c10::InferenceMode no_gradients;
  take_thread_count();
  at::Tensor sum = as_tensor(out);
  at::addmm_out(sum, sum, as_tensor(a).t(), as_tensor(b));
}

void linear(MatrixView<const float> x, MatrixView<const float> weight, MatrixView<float> out) {
  check_linear(x.rows, x.columns, weight.rows, weight.columns, out.rows, out.columns);
  if (out.rows > 0 && out.columns > 0) multiply_transposed(x, weight, out);
}

void linear(const Tensor& x, const Tensor& weight, std::span<const float> bias, Tensor out) {
  check_linear(x.rows(), x.columns(), weight.rows(), weight.columns(), out.rows(), out.columns());
  if (out.rows() == 0 || out.columns() == 0) return;
  product(x, weight.held().tensor.t(), out.window());
  if (!bias.empty()) add_bias(bias, out.host());
}

void linear_gradient(const Tensor& gradient, const Tensor& weight, Tensor out) {
  check_linear(gradient.rows(), gradient.columns(), weight.columns(), weight.rows(), out.rows(),
               out.columns());
  if (out.rows() > 0 && out.columns() > 0) product(gradient, weight.held().tensor, std::move(out));
}

}  // namespace aq::runtime
