#pragma once
/// Activations and weights of the forward pass: matrices that LibTorch holds.

#include <memory>

#include "aq/core/buffer.h"
#include "aq/core/dtype.h"
#include "aq/core/matrix_view.h"

namespace aq::runtime {

/// Where the elements of a tensor lie, and as what. Today float32 or bfloat16 in the memory of the
/// CPU; others are Error{internal} until this module has operations for them.
struct TensorKind {
  Device device = {};
  DType dtype = DType::f32;
  bool operator==(const TensorKind&) const = default;
};

/// Where a new tensor lies.
enum class Storage {
  memory,
  /// In a file of the directory that was chosen (aq/core/offload.h), else in memory: what grows
  /// with all tokens of a rank. Messages must not be received there (a network may not pin a file).
  offload,
};

/// A row-major matrix `[rows, columns]`, or a window into one. Moved, never copied by accident:
/// clone() copies. Windows share the elements, and keep them alive.
class Tensor {
 public:
  /// No elements.
  Tensor();
  /// Elements are whatever the memory holds: who makes it writes all of it.
  Tensor(Index rows, Index columns, TensorKind kind = {}, Storage storage = Storage::memory);
  static Tensor zeros(Index rows, Index columns, TensorKind kind = {},
                      Storage storage = Storage::memory);
  /// Takes the memory over.
  static Tensor from(Matrix matrix);
  ~Tensor();
  Tensor(Tensor&& other) noexcept;
  Tensor& operator=(Tensor&& other) noexcept;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  Index rows() const { return rows_; }
  Index columns() const { return columns_; }
  const TensorKind& kind() const { return kind_; }
  Tensor clone(Storage storage = Storage::memory) const;
  /// A copy with other elements, rounded to nearest even.
  Tensor as(DType dtype) const;

  /// All of it, rows, or columns `[begin, begin + count)`. A window of a constant is for reading.
  Tensor window() const { return window({0, rows_}); }
  Tensor window(Range rows) const;
  Tensor window_columns(Index begin, Index count) const;

  /// The elements, of a tensor that is float32 in the memory of the CPU.
  MatrixView<float> host();
  MatrixView<const float> host() const;
  /// The bytes, where rows follow each other without gaps, for whoever moves them as they are.
  Buffer bytes();
  ConstBuffer bytes() const;

  /// What LibTorch knows of it; for this module alone.
  struct Held;
  const Held& held() const { return *held_; }

 private:
  explicit Tensor(Held held);

  std::unique_ptr<Held> held_;
  Index rows_ = 0, columns_ = 0;
  TensorKind kind_;
};

}  // namespace aq::runtime

namespace aq {
using runtime::Storage;
using runtime::Tensor;
}  // namespace aq
