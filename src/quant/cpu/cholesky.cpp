#include "quant/cpu/cholesky.h"

#include "aq/core/parallel.h"
#include "quant/cpu/tile_kernel.h"

extern "C" void dpotrf_(const char* uplo, const int* n, double* a, const int* stride, int* info);

namespace aq {

bool cholesky(float* parts, Index n) {
  const TileKernel& kernel = tile_kernel();
  for (Index block = 0; block < n; block += kFactorBlock) {
    if (!kernel.factor_diagonal(parts, n, block)) return false;
    const Index below = block + kFactorBlock;
    if (below >= n) break;
    parallel_for(ceil_div(n - below, kFactorBlock),
                 [&](Index i) { kernel.factor_below(parts, n, block, below + i * kFactorBlock); });
  }
  return true;
}

bool cholesky(double* a, Index n) {
  const int size = checked_cast<int>(n);
  int info = 0;
  dpotrf_("U", &size, a, &size, &info);  // the lower triangle by rows is the upper one by columns
  bool positive = info == 0;
  for (Index i = 0; i < n; ++i) positive = positive && a[i * n + i] > 0;  // LAPACK passes a NaN
  return positive;
}

}  // namespace aq
