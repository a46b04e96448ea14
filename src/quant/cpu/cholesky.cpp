#include "quant/cpu/cholesky.h"

#include <cblas.h>

#include <algorithm>

#include "aq/core/parallel.h"

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* stride, int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* stride, int* info);
}

namespace aq {
namespace {

constexpr Index kTile = 256;

/// Lower triangle row-major is upper triangle column-major.
bool factor_tile(float* a, int n, int stride) {
  int info = 0;
  spotrf_("U", &n, a, &stride, &info);
  return info == 0;
}
bool factor_tile(double* a, int n, int stride) {
  int info = 0;
  dpotrf_("U", &n, a, &stride, &info);
  return info == 0;
}

/// c -= a bᵀ; a `[m, k]`, b `[n, k]`, c `[m, n]`.
void subtract_product(const float* a, const float* b, float* c, int m, int n, int k, int stride) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1, a, stride, b, stride, 1, c,
              stride);
}
void subtract_product(const double* a, const double* b, double* c, int m, int n, int k,
                      int stride) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, -1, a, stride, b, stride, 1, c,
              stride);
}

/// The lower triangle of c -= a aᵀ; a `[n, k]`.
void subtract_square(const float* a, float* c, int n, int k, int stride) {
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, n, k, -1, a, stride, 1, c, stride);
}
void subtract_square(const double* a, double* c, int n, int k, int stride) {
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, n, k, -1, a, stride, 1, c, stride);
}

/// b = b L⁻ᵀ; b `[m, n]`, L `[n, n]`.
void divide(const float* l, float* b, int m, int n, int stride) {
  cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, m, n, 1, l, stride,
              b, stride);
}
void divide(const double* l, double* b, int m, int n, int stride) {
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, m, n, 1, l, stride,
              b, stride);
}

template <class Real>
bool factor(Real* a, Index n) {
  const int stride = checked_cast<int>(n);
  for (Index c = 0; c < n; c += kTile) {
    const int width = static_cast<int>(std::min(kTile, n - c));
    const int done = static_cast<int>(c);
    Real* diagonal = a + c * n + c;
    if (c > 0) subtract_square(a + c * n, diagonal, width, done, stride);
    if (!factor_tile(diagonal, width, stride)) return false;
    for (Index j = 0; j < width; ++j) {
      if (!(diagonal[j * n + j] > 0)) return false;  // LAPACK lets a NaN pass
    }
    const Index next = c + width;
    parallel_for(ceil_div(n - next, kTile), [&](Index tile) {
      const Index r = next + tile * kTile;
      const int rows = static_cast<int>(std::min(kTile, n - r));
      if (c > 0) subtract_product(a + r * n, a + c * n, a + r * n + c, rows, width, done, stride);
      divide(diagonal, a + r * n + c, rows, width, stride);
    });
  }
  return true;
}

}  // namespace

bool cholesky(float* a, Index n) {
  return factor(a, n);
}
bool cholesky(double* a, Index n) {
  return factor(a, n);
}

}  // namespace aq
