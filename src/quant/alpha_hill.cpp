#include "aq/quant/alpha_hill.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "aq/core/error.h"
#include "quant/blas.h"

extern "C" void ssyev_(const char* vectors, const char* uplo, const int* n, float* a,
                       const int* stride, float* values, float* work, const int* work_size,
                       int* info);

namespace aq {
namespace {

/// Eigenvalues, ascending, of W Wᵀ or Wᵀ W, whichever is smaller: they differ in zeros alone.
std::vector<float> spectrum(MatrixView<const float> weight) {
  const bool wide = weight.columns >= weight.rows;
  const int n = checked_cast<int>(wide ? weight.rows : weight.columns);
  const int depth = checked_cast<int>(wide ? weight.columns : weight.rows);
  const int stride = checked_cast<int>(weight.stride);
  const float one = 1, zero = 0;
  std::vector<float> gram(static_cast<std::size_t>(n) * n), values(n);
  sgemm_(wide ? "T" : "N", wide ? "N" : "T", &n, &n, &depth, &one, weight.data, &stride,
         weight.data, &stride, &zero, gram.data(), &n);
  int info = 0, size = -1;
  float wanted = 0;
  ssyev_("N", "L", &n, gram.data(), &n, values.data(), &wanted, &size, &info);
  size = static_cast<int>(wanted);
  std::vector<float> work(size);
  ssyev_("N", "L", &n, gram.data(), &n, values.data(), work.data(), &size, &info);
  AQ_CHECK(info == 0, str("ssyev returns ", info));
  return values;
}

}  // namespace

double alpha_hill(MatrixView<const float> weight) {
  if (std::min(weight.rows, weight.columns) < 2) return 0;
  const std::vector<float> values = spectrum(weight);
  const auto count = std::ssize(values);
  const Index tail = std::clamp<Index>(count / 10, std::min<Index>(10, count - 1), count - 1);
  const double reference = values[count - tail - 1];
  if (!(reference > 0)) return 0;
  double sum = 0;
  for (Index i = count - tail; i < count; ++i) sum += std::log(values[i] / reference);
  return sum > 0 ? 1 + static_cast<double>(tail) / sum : 0;
}

}  // namespace aq
