#pragma once
/// Row-major matrices: a view, and an owning buffer.

#include <span>
#include <type_traits>

#include "aq/core/block_array.h"
#include "aq/core/index.h"

namespace aq {

/// A row-major view `[rows, columns]`; rows are `stride` elements apart.
template <class T>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0;
  Index columns = 0;
  Index stride = 0;

  MatrixView() = default;
  MatrixView(T* values, Index row_count, Index column_count)
      : data(values), rows(row_count), columns(column_count), stride(column_count) {}
  MatrixView(T* values, Index row_count, Index column_count, Index row_stride)
      : data(values), rows(row_count), columns(column_count), stride(row_stride) {}
  /// A view of constants from a view of variables.
  template <class U>
  requires(std::is_same_v<T, const U>) MatrixView(const MatrixView<U>& other)
      : data(other.data), rows(other.rows), columns(other.columns), stride(other.stride) {}

  std::span<T> row(Index r) const { return {data + r * stride, static_cast<std::size_t>(columns)}; }
  T& operator()(Index r, Index c) const { return data[r * stride + c]; }
  /// Rows `[begin, begin + count)`.
  MatrixView slice_rows(Index begin, Index count) const {
    return {data + begin * stride, count, columns, stride};
  }
  /// Columns `[begin, begin + count)`.
  MatrixView slice_columns(Index begin, Index count) const {
    return {data + begin, rows, count, stride};
  }
};

/// An owning, contiguous, row-major float matrix `[rows, columns]`.
struct Matrix {
  Index rows = 0;
  Index columns = 0;
  FloatArray values;

  Matrix() = default;
  Matrix(Index row_count, Index column_count)
      : rows(row_count),
        columns(column_count),
        values(static_cast<std::size_t>(row_count * column_count), 0.0F) {}
  /// Elements are undefined: who makes it writes all of it.
  static Matrix uninitialized(Index row_count, Index column_count) {
    Matrix matrix;
    matrix.rows = row_count;
    matrix.columns = column_count;
    matrix.values.resize(static_cast<std::size_t>(row_count * column_count));
    return matrix;
  }

  MatrixView<float> view() { return {values.data(), rows, columns}; }
  MatrixView<const float> view() const { return {values.data(), rows, columns}; }
  float& operator()(Index r, Index c) { return values[r * columns + c]; }
  float operator()(Index r, Index c) const { return values[r * columns + c]; }
};

}  // namespace aq
