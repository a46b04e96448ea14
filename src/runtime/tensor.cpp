#include "aq/runtime/tensor.h"

#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/narrow.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <utility>

#include "aq/core/error.h"
#include "runtime/held_tensor.h"

namespace aq::runtime {
namespace {

void check_supported(const TensorKind& kind) {
  AQ_CHECK(kind == TensorKind{}, "tensors are float32 in the memory of the CPU, not ",
           dtype_name(kind.dtype));
}

at::TensorOptions options_of(const TensorKind& kind) {
  check_supported(kind);
  return at::TensorOptions().dtype(at::kFloat).device(at::kCPU);
}

}  // namespace

Tensor::Tensor(Held held)
    : held_(std::make_unique<Held>(std::move(held))),
      rows_(held_->tensor.size(0)),
      columns_(held_->tensor.size(1)) {}

Tensor::Tensor() = default;
Tensor::~Tensor() = default;

Tensor::Tensor(Tensor&& other) noexcept
    : held_(std::move(other.held_)),
      rows_(std::exchange(other.rows_, 0)),
      columns_(std::exchange(other.columns_, 0)),
      kind_(other.kind_) {}

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  held_ = std::move(other.held_);
  rows_ = std::exchange(other.rows_, 0);
  columns_ = std::exchange(other.columns_, 0);
  kind_ = other.kind_;
  return *this;
}

Tensor::Tensor(Index rows, Index columns, TensorKind kind)
    : rows_(rows), columns_(columns), kind_(kind) {
  const c10::InferenceMode no_gradients;
  held_ = std::make_unique<Held>(Held{at::empty({rows, columns}, options_of(kind))});
}

Tensor Tensor::zeros(Index rows, Index columns, TensorKind kind) {
  const c10::InferenceMode no_gradients;
  return Tensor(Held{at::zeros({rows, columns}, options_of(kind))});
}

Tensor Tensor::from(Matrix matrix) {
  const c10::InferenceMode no_gradients;
  const auto kept = std::make_shared<Matrix>(std::move(matrix));
  return Tensor(Held{at::from_blob(
      kept->values.data(), {kept->rows, kept->columns}, [kept](void*) {}, options_of({}))});
}

Tensor Tensor::clone() const {
  const c10::InferenceMode no_gradients;
  return held_ ? Tensor(Held{held_->tensor.clone()}) : Tensor();
}

Tensor Tensor::window(Range rows) const {
  const c10::InferenceMode no_gradients;
  if (!held_) return Tensor();
  return Tensor(Held{held_->tensor.narrow(0, rows.begin, rows.size())});
}

Tensor Tensor::window_columns(Index begin, Index count) const {
  const c10::InferenceMode no_gradients;
  if (!held_) return Tensor();
  return Tensor(Held{held_->tensor.narrow(1, begin, count)});
}

MatrixView<float> Tensor::host() {
  check_supported(kind_);
  if (!held_) return {nullptr, 0, 0};
  return {held_->tensor.data_ptr<float>(), rows_, columns_, held_->tensor.stride(0)};
}
MatrixView<const float> Tensor::host() const {
  return const_cast<Tensor&>(*this).host();
}

Buffer Tensor::bytes() {
  const MatrixView<float> view = host();
  AQ_CHECK(view.rows <= 1 || view.stride == view.columns, "rows ", view.stride, " apart, columns ",
           view.columns);
  return {std::as_writable_bytes(
              std::span(view.data, static_cast<std::size_t>(view.rows * view.columns))),
          kind_.device};
}
ConstBuffer Tensor::bytes() const {
  const Buffer buffer = const_cast<Tensor&>(*this).bytes();
  return {buffer.bytes, buffer.device};
}

}  // namespace aq::runtime
