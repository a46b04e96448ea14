#pragma once

#include "aq/comm/lanes.h"
#include "aq/core/matrix_view.h"

namespace aq {

inline MatrixView<const float> rows_of(const Matrix& matrix, Range rows) {
  return matrix.view().slice_rows(rows.begin, rows.size());
}
inline MatrixView<float> rows_of(Matrix& matrix, Range rows) {
  return matrix.view().slice_rows(rows.begin, rows.size());
}

}  // namespace aq
