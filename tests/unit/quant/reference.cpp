#include "unit/quant/reference.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>

#include "aq/core/parallel.h"
#include "aq/quant/hessian.h"
#include "aq/quant/solver.h"
#include "quant/cpu/hessian.h"
#include "quant/cuda/solver.h"

namespace aq::test {
namespace {

/// Lower L of A = L Lᵀ.
Doubles naive_cholesky(const Doubles& a) {
  const Index n = a.rows;
  Doubles l(n, n);
  for (Index r = 0; r < n; ++r) {
    for (Index c = 0; c <= r; ++c) {
      double sum = a(r, c);
      for (Index k = 0; k < c; ++k) sum -= l(r, k) * l(c, k);
      l(r, c) = r == c ? std::sqrt(sum) : sum / l(c, c);
    }
  }
  return l;
}

/// A⁻¹ = L⁻ᵀ L⁻¹.
Doubles naive_inverse(const Doubles& a) {
  const Index n = a.rows;
  const Doubles l = naive_cholesky(a);
  Doubles m(n, n);  // rows of L⁻ᵀ, so that sums run along rows
  for (Index c = 0; c < n; ++c) {
    m(c, c) = 1 / l(c, c);
    for (Index r = c + 1; r < n; ++r) {
      double sum = 0;
      for (Index k = c; k < r; ++k) sum -= l(r, k) * m(c, k);
      m(c, r) = sum / l(r, r);
    }
  }
  Doubles inverse(n, n);
  for (Index r = 0; r < n; ++r) {
    for (Index c = 0; c <= r; ++c) {
      double sum = 0;
      for (Index k = r; k < n; ++k) sum += m(r, k) * m(c, k);
      inverse(r, c) = inverse(c, r) = sum;
    }
  }
  return inverse;
}

/// The grid that row r's group starting at `begin` gets from its current values.
Grid fit_group(const Scheme& scheme, float global_scale, const Doubles& w, Index r, Index begin,
               Index end) {
  double low = w(r, begin);
  double high = low;
  for (Index c = begin; c < end; ++c) {
    low = std::min(low, w(r, c));
    high = std::max(high, w(r, c));
  }
  return fit_grid(scheme, static_cast<float>(low), static_cast<float>(high), ScaleRule::ocp,
                  global_scale);
}

/// The nearest level and its code: integers by division in double, floats by the slow codec.
std::pair<std::uint8_t, double> nearest(const Scheme& scheme, const Grid& grid, double value) {
  if (scheme.is_float()) {
    const std::uint8_t code = encode(scheme, grid, static_cast<float>(value));
    return {code, decode(scheme, grid, code)};
  }
  const double top = (1 << scheme.bits) - 1;
  const double code = std::clamp(std::nearbyint(value / grid.scale) + grid.zero, 0.0, top);
  return {static_cast<std::uint8_t>(code), (code - grid.zero) * grid.scale};
}

}  // namespace

Matrix make_inputs(Index tokens, Index columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix x(tokens, columns);
  for (Index t = 0; t < tokens; ++t) {
    float carried = 0;
    for (Index c = 0; c < columns; ++c) {
      carried = 0.7F * carried + normal(random);  // neighbours are correlated
      const float size = c % 29 == 3 ? 8.0F : 0.5F + static_cast<float>(c % 7) / 4;
      x(t, c) = size * carried;
    }
  }
  return x;
}

Matrix make_weights(Index rows, Index columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  Matrix w(rows, columns);
  for (float& value : w.values) value = normal(random);
  for (Index r = 0; r < rows; ++r) w(r, (7 * r) % columns) *= 3;
  return w;
}

Doubles naive_hessian(const Matrix& x, const std::vector<float>& weights) {
  Doubles h(x.columns, x.columns);
  for (Index t = 0; t < x.rows; ++t) {
    const double weight = weights.empty() ? 1 : weights[t];
    for (Index r = 0; r < x.columns; ++r) {
      const double scaled = weight * x(t, r);
      for (Index c = 0; c < x.columns; ++c) h(r, c) += scaled * x(t, c);
    }
  }
  return h;
}

Doubles naive_damped(const Doubles& h, double weight_sum, double damping) {
  Doubles a = h;
  for (double& value : a.values) value /= weight_sum;
  double mean = 0;
  Index live = 0;
  for (Index i = 0; i < a.rows; ++i) {
    mean += a(i, i);
    if (a(i, i) != 0) ++live;
  }
  mean /= static_cast<double>(live);
  for (Index i = 0; i < a.rows; ++i) {
    if (a(i, i) == 0) a(i, i) = mean;
    a(i, i) += damping * mean;
  }
  return a;
}

Doubles naive_inverse_factor(const Doubles& damped) {
  const Doubles l = naive_cholesky(naive_inverse(damped));
  Doubles upper(l.rows, l.rows);
  for (Index r = 0; r < l.rows; ++r) {
    for (Index c = 0; c <= r; ++c) upper(c, r) = l(r, c);
  }
  return upper;
}

Doubles naive_upper(const Doubles& damped) {
  const Index n = damped.rows;
  Doubles reversed(n, n);
  for (Index r = 0; r < n; ++r) {
    for (Index c = 0; c < n; ++c) reversed(n - 1 - r, n - 1 - c) = damped(r, c);
  }
  const Doubles l = naive_cholesky(reversed);
  Doubles upper(n, n);
  for (Index r = 0; r < n; ++r) {
    for (Index c = 0; c < n; ++c) upper(r, c) = l(n - 1 - r, n - 1 - c);
  }
  return upper;
}

NaiveResult naive_gptq(const Matrix& weights, const Doubles& inverse_factor, const Scheme& scheme,
                       float global_scale) {
  const Index columns = weights.columns;
  const Index width = group_width(scheme, columns);
  NaiveResult result{std::vector<std::uint8_t>(weights.values.size()),
                     Doubles(weights.rows, columns)};
  Doubles w(weights.rows, columns);
  std::copy(weights.values.begin(), weights.values.end(), w.values.begin());
  const Grid tensor_grid = fit_tensor_grid(scheme, weights.view(), ScaleSearch::absmax);
  for (Index r = 0; r < weights.rows; ++r) {
    Grid grid = tensor_grid;
    for (Index j = 0; j < columns; ++j) {
      if (scheme.group_size != kPerTensor && j % width == 0) {
        grid = fit_group(scheme, global_scale, w, r, j, std::min(columns, j + width));
      }
      const auto [code, q] = nearest(scheme, grid, w(r, j));
      const double error = (w(r, j) - q) / inverse_factor(j, j);
      for (Index k = j + 1; k < columns; ++k) w(r, k) -= error * inverse_factor(j, k);
      result.codes[r * columns + j] = code;
      result.values(r, j) = q;
    }
  }
  return result;
}

double row_objective(const Matrix& weights, const Doubles& q, const Doubles& h, Index row) {
  double total = 0;
  for (Index i = 0; i < h.rows; ++i) {
    double product = 0;
    for (Index j = 0; j < h.rows; ++j) product += h(i, j) * (weights(row, j) - q(row, j));
    total += (weights(row, i) - q(row, i)) * product;
  }
  return total;
}

std::vector<std::uint8_t> codes_of(const QuantizedMatrix& matrix) {
  const auto words = static_cast<std::size_t>(words_per_row(matrix.scheme.bits, matrix.columns));
  const auto columns = static_cast<std::size_t>(matrix.columns);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(matrix.rows) * columns);
  for (std::size_t r = 0; r < static_cast<std::size_t>(matrix.rows); ++r) {
    unpack_row(matrix.scheme.bits, std::span(matrix.codes).subspan(r * words, words),
               std::span(codes).subspan(r * columns, columns));
  }
  return codes;
}

Doubles values_of(const QuantizedMatrix& matrix) {
  Matrix values(matrix.rows, matrix.columns);
  dequantize(matrix, values.view());
  Doubles out(matrix.rows, matrix.columns);
  std::copy(values.values.begin(), values.values.end(), out.values.begin());
  return out;
}

WeightedSum sum_of(const Matrix& x, const std::vector<float>& weights) {
  Matrix scaled(x.rows, x.columns);
  gather_scaled_reversed(x.view(), {}, weights, scaled.view());
  double weight_sum = static_cast<double>(x.rows);
  if (!weights.empty()) {
    weight_sum = 0;
    for (const float weight : weights) weight_sum += weight;
  }
  WeightedSum sum;
  accumulate_hessian(sum, scaled.view(), weight_sum, false);
  return sum;
}

std::vector<float> token_weights(Index tokens) {
  std::vector<float> weights;
  for (Index t = 0; t < tokens; ++t) weights.push_back(0.05F + static_cast<float>(t % 11) / 12);
  return weights;
}

const Solver& device_solver() {
  const char* device = std::getenv("AQ_TEST_DEVICE");
  return device != nullptr && std::string_view(device) == "cuda" ? find_solver(SolverDevice::cuda)
                                                                 : emulated_solver();
}

double share_equal(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  const auto equal =
      std::inner_product(a.begin(), a.end(), b.begin(), Index{0}, std::plus<>(), std::equal_to<>());
  return static_cast<double>(equal) / static_cast<double>(a.size());
}

SolveTask solved_in_slices(const Solver& solver, const SolveTask& whole,
                           const std::vector<Index>& rows, const GptqSettings& settings) {
  std::vector<SolveTask> slices;
  Index first = 0;
  for (const Index count : rows) {
    slices.push_back({.weight = whole.weight.slice_rows(first, count),
                      .first_row = first,
                      .scheme = whole.scheme,
                      .tensor_grid = whole.tensor_grid,
                      .factor = whole.factor});
    if (whole.output_factor.rows > 0)
      slices.back().output_factor = whole.output_factor.slice_rows(first, count);
    first += count;
  }
  AQ_CHECK(first == whole.weight.rows, first, " rows");
  const int threads = thread_count();
  set_thread_count(2);
  solver.solve(slices, settings);
  set_thread_count(threads);
  SolveTask all;
  std::vector<QuantizedMatrix> results;
  for (const SolveTask& slice : slices) {
    results.push_back(slice.result);
    for (const auto figures : {&SolveTask::error, &SolveTask::error_rtn, &SolveTask::norm,
                               &SolveTask::weight_error, &SolveTask::weight_norm})
      (all.*figures).insert((all.*figures).end(), (slice.*figures).begin(), (slice.*figures).end());
  }
  all.result = stack_rows(results);
  return all;
}

}  // namespace aq::test
