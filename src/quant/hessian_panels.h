#pragma once
/// Where the panels of a Hessian sum lie; see hessian.h of the interface.

#include "aq/formats/element.h"
#include "aq/quant/hessian.h"

namespace aq {

/// Columns [first, first + width) of the reversed matrix, rows [first, n).
struct HessianPanel {
  Index first = 0;
  Index width = 0;
  Index offset = 0;  ///< floats before the panel

  /// Floats before element (r, first).
  AQ_HOST_DEVICE Index row_offset(Index r) const { return offset + (r - first) * width; }
};

/// Panel j of a matrix of `columns`; the one after the last is empty and lies at the end.
AQ_HOST_DEVICE HessianPanel hessian_panel(Index columns, Index j) {
  const Index first = j * kHessianPanel < columns ? j * kHessianPanel : columns;
  // Panels before it: whole ones of kHessianPanel columns, of columns, columns - kHessianPanel, ...
  // rows.
  const Index whole = first / kHessianPanel;
  const Index rest = first % kHessianPanel;  // only at the end: the last panel, a square
  const Index rows = whole * columns - kHessianPanel * whole * (whole - 1) / 2;
  const Index left = columns - first;
  return {first, left < kHessianPanel ? left : kHessianPanel, rows * kHessianPanel + rest * rest};
}

}  // namespace aq
