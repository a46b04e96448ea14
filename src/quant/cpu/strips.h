#pragma once
/// U as the row kernel reads it: strips of kPanel columns. Strip s holds rows [0, kPanel * (s + 1))
/// of columns [kPanel * s, kPanel * (s + 1)), row-major, strips one after the other: half of the
/// square, and read front to back. Columns and rows beyond the matrix and the part below the
/// diagonal are zeros.

#include "aq/core/index.h"
#include "quant/row_kernel.h"

namespace aq {

/// Floats before strip `strip`.
constexpr Index strip_offset(Index strip) {
  return Index{kPanel} * kPanel * strip * (strip + 1) / 2;
}
/// Floats of all strips of a matrix of `columns`.
constexpr Index strips_size(Index columns) {
  return strip_offset(ceil_div(columns, kPanel));
}

}  // namespace aq
