#pragma once
/// Slow, obvious double-precision code that the tests of quant compare with.

#include <cstdint>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/core/weighted_sum.h"
#include "aq/formats/quantized_matrix.h"
#include "aq/quant/solver.h"

namespace aq::test {

/// GPTQ as in the paper: absmax scales, columns in their order, one damping, no refinement.
inline GptqSettings plain_gptq() {
  GptqSettings settings;
  settings.scale_search = ScaleSearch::absmax;
  settings.refine = 0;
  settings.few_tokens_damping = 0;
  return settings;
}

/// A square or rectangular matrix of doubles, row-major.
struct Doubles {
  Index rows = 0, columns = 0;
  std::vector<double> values;

  Doubles(Index row_count, Index column_count)
      : rows(row_count),
        columns(column_count),
        values(static_cast<std::size_t>(row_count * column_count)) {}
  double& operator()(Index r, Index c) { return values[r * columns + c]; }
  double operator()(Index r, Index c) const { return values[r * columns + c]; }
};

/// Inputs of a layer, `[tokens, columns]`: correlated channels of very different size.
Matrix make_inputs(Index tokens, Index columns, unsigned seed);
/// Weights `[rows, columns]`, normally distributed with a few outliers.
Matrix make_weights(Index rows, Index columns, unsigned seed);

/// Σ_t weight_t x_t x_tᵀ, natural order.
Doubles naive_hessian(const Matrix& x, const std::vector<float>& weights);
/// H / weight_sum, always-zero channels given the mean of the others, plus share * mean.
Doubles naive_damped(const Doubles& h, double weight_sum, double damping);
/// Upper Cholesky factor R of H⁻¹ = RᵀR, by an inverse and a second factorisation, as in the paper.
Doubles naive_inverse_factor(const Doubles& damped);
/// Upper U of H = U Uᵀ.
Doubles naive_upper(const Doubles& damped);

/// Result of the oracle.
struct NaiveResult {
  std::vector<std::uint8_t> codes;  ///< `[rows, columns]`
  Doubles values;                   ///< dequantized
};
/// GPTQ as in the paper (algorithm 1, one column at a time), grids fitted when a group begins (MX
/// by the rule `ocp`).
NaiveResult naive_gptq(const Matrix& weights, const Doubles& inverse_factor, const Scheme& scheme,
                       float global_scale = 1);

/// Row r of E H Eᵀ with E = w - q.
double row_objective(const Matrix& weights, const Doubles& q, const Doubles& h, Index row);
/// Unpacked codes `[rows, columns]`.
std::vector<std::uint8_t> codes_of(const QuantizedMatrix& matrix);
Doubles values_of(const QuantizedMatrix& matrix);
/// The sum of x as the solver wants it.
WeightedSum sum_of(const Matrix& x, const std::vector<float>& weights = {});

/// Weights of tokens, of all sizes.
std::vector<float> token_weights(Index tokens);
/// The solver of devices, on the emulated one, or on a GPU where AQ_TEST_DEVICE is "cuda"
/// (tools/check_gpu.sh).
const Solver& device_solver();
/// Share of the codes that are equal.
double share_equal(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b);
/// A solved task once more, cut into slices of so many rows, on two threads; their rows and figures
/// as one task's.
SolveTask solved_in_slices(const Solver& solver, const SolveTask& whole,
                           const std::vector<Index>& rows, const GptqSettings& settings);

}  // namespace aq::test
