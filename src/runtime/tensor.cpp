#include "aq/runtime/tensor.h"

#include <ATen/ops/copy.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/narrow.h>
#include <ATen/ops/zero.h>
#include <c10/core/InferenceMode.h>

#include <utility>

#include "aq/core/block_array.h"
#include "aq/core/error.h"
#include "aq/core/offload.h"
#include "aq/runtime/operations.h"
#include "runtime/held_tensor.h"

namespace aq::runtime {
namespace {

at::ScalarType element_of(const TensorKind& kind) {
  AQ_CHECK(kind.device == Device{}, "tensors are in the memory of the CPU");
  AQ_CHECK(kind.dtype == DType::f32 || kind.dtype == DType::bf16, dtype_name(kind.dtype));
  return kind.dtype == DType::f32 ? at::kFloat : at::kBFloat16;
}

/// In a block that is used again (block_array.h), or in a file of zeros (offload.h).
at::Tensor empty(Index rows, Index columns, const TensorKind& kind, bool in_file = false) {
  const c10::InferenceMode no_gradients;
  const at::ScalarType element = element_of(kind);
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * c10::elementSize(element);
  const auto take = in_file ? take_file_block : take_block;
  const auto give = in_file ? give_file_block : give_block;
  return at::from_blob(
      take(bytes), {rows, columns}, [give, bytes](void* block) { give(block, bytes); },
      at::TensorOptions().dtype(element));
}

bool is_in_file(Storage storage, Index elements) {
  return storage == Storage::offload && elements > 0 && offloads();
}

}  // namespace

Tensor::Tensor(Held held)
    : held_(std::make_unique<Held>(std::move(held))),
      rows_(held_->tensor.size(0)),
      columns_(held_->tensor.size(1)),
      kind_{{}, held_->tensor.scalar_type() == at::kFloat ? DType::f32 : DType::bf16} {}

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

Tensor::Tensor(Index rows, Index columns, TensorKind kind, Storage storage)
    : rows_(rows), columns_(columns), kind_(kind) {
  held_ =
      std::make_unique<Held>(Held{empty(rows, columns, kind, is_in_file(storage, rows * columns))});
}

Tensor Tensor::zeros(Index rows, Index columns, TensorKind kind, Storage storage) {
  const c10::InferenceMode no_gradients;
  Tensor zeros(rows, columns, kind, storage);
  if (!is_in_file(storage, rows * columns)) zeros.held_->tensor.zero_();
  return zeros;
}

Tensor Tensor::from(Matrix matrix) {
  const c10::InferenceMode no_gradients;
  const auto kept = std::make_shared<Matrix>(std::move(matrix));
  return Tensor(Held{at::from_blob(
      kept->values.data(), {kept->rows, kept->columns}, [kept](void*) {},
      at::TensorOptions().dtype(at::kFloat))});
}

Tensor Tensor::clone(Storage storage) const {
  if (!held_) return Tensor();
  Tensor made(rows_, columns_, kind_, storage);
  copy(*this, made.window());
  return made;
}

Tensor Tensor::as(DType dtype) const {
  const c10::InferenceMode no_gradients;
  if (!held_) return Tensor();
  return Tensor(Held{empty(rows_, columns_, {kind_.device, dtype}).copy_(held_->tensor)});
}

void copy(const Tensor& from, Tensor out) {
  AQ_CHECK(from.rows() == out.rows() && from.columns() == out.columns(), "[", from.rows(), ", ",
           from.columns(), "] to [", out.rows(), ", ", out.columns(), "]");
  if (from.rows() == 0) return;
  const c10::InferenceMode no_gradients;
  at::Tensor to = out.held().tensor;
  to.copy_(from.held().tensor);
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
  AQ_CHECK(kind_ == TensorKind{}, "elements are ", dtype_name(kind_.dtype));
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
