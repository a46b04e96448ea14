#pragma once
/// Matrix products on the calling thread, into the caller's memory. Operands are read where they
/// lie: row strides reach the BLAS as leading dimensions, nothing is copied.

#include "aq/core/matrix_view.h"

namespace aq::runtime {

/// out [m, n] = a [m, k] · b [k, n].
void multiply(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> out);
/// out [m, n] = a [m, k] · bᵀ, b [n, k].
void multiply_transposed(MatrixView<const float> a, MatrixView<const float> b,
                         MatrixView<float> out);
/// out [m, n] += aᵀ · b, a [k, m], b [k, n].
void add_product_of_transposed(MatrixView<const float> a, MatrixView<const float> b,
                               MatrixView<float> out);

}  // namespace aq::runtime
