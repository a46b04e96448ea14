#pragma once
/// GPTQ without the inverse: factor, left-looking column blocks, round to nearest.
/// GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
/// Transformers" (2022). Here H + λI = U Uᵀ with U upper triangular; R = U⁻¹ is the factor of the
/// usual algorithm, of which only the diagonal blocks are needed.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/buffer.h"
#include "aq/core/matrix_view.h"
#include "aq/core/weighted_sum.h"
#include "aq/formats/quantized_matrix.h"

namespace aq {

/// What a matrix was given. `copy` keeps it as it is.
enum class Method { gptq, rtn, copy };
std::string_view method_name(Method method);

/// Each rung of the ladder that a poor Hessian climbs (design: damping x10 three times, float64,
/// RTN).
enum class Fallback { none, more_damping, float64, rtn };
std::string_view fallback_name(Fallback fallback);

/// Why a matrix, or rows of it, are rounded where GPTQ was asked for.
enum class RtnReason {
  none,
  no_tokens,        ///< nothing was summed
  not_finite,       ///< the sum overflowed, or activations did
  lack_not_finite,  ///< the cross sum beside it did
  no_input,         ///< all inputs are zero
  not_definite,     ///< no rung of the ladder held
  overflow,         ///< errors of rows overflowed while they were quantized
};
/// "its Hessian is not finite"; empty for none.
std::string_view rtn_reason_text(RtnReason reason);

/// How the scale of a group is found.
enum class ScaleSearch {
  absmax,   ///< the group's largest magnitude is kept (MX: by the scale rule)
  mse,      ///< least squared error over the group, among scales from absmax down
  hessian,  ///< the same with errors weighted by the diagonal of H
};

/// The order in which columns are rounded.
enum class ActOrder {
  none,   ///< as they are stored
  fixed,  ///< "static": by falling diagonal of H; grids are fitted first, on the original weights,
          ///< and the result is stored as without it
};

struct GptqSettings {
  double damping = 0.01;  ///< λ as a share of mean(diag H), of many tokens
  /// Times columns / tokens, is added to it: what few tokens say of an input channel is noise.
  double few_tokens_damping = 1;
  ScaleSearch scale_search = ScaleSearch::mse;
  /// Symmetric integers: the search tries negative scales too. Their levels reach one step further
  /// below zero than above (-2 to 1 with two bits), and the sign says which side of the group that
  /// step serves; nothing but the product code * scale is ever computed with it.
  bool negative_scales = true;
  ActOrder act_order = ActOrder::none;
  /// Sweeps of coordinate descent over the codes after GPTQ, under the same damped H; a group's
  /// scale is refitted by least squares before its codes, where the row's error falls (not MX, not
  /// per tensor). With an output factor as many again under it.
  int refine = 4;
  /// Columns whose sums over all columns before them are formed at once; rounded to a multiple of
  /// the group. It changes the speed, not one bit of the result. Of the CPU; GPUs have
  /// theirs.
  Index block = 128;
  bool operator==(const GptqSettings&) const = default;
};

/// What is known of a matrix beside its Hessian: Σ s^p d_t x_tᵀ over the same tokens, d_t what
/// token t lacks.
enum class CrossSum {
  none,
  inputs,   ///< d: its input in the original model less x, `[columns]`
  outputs,  ///< d: what its output should bring beside W x, `[rows]`
};

/// What factorising a Hessian found out. Damping is a share of the mean diagonal of the normalised
/// H.
struct FactorFacts {
  Index columns = 0;
  double damping = 0;        ///< that was used in the end
  double mean_diagonal = 0;  ///< of live channels
  Index dead_channels = 0;   ///< always-zero inputs: their diagonal is the mean, weights are kept
  Fallback fallback = Fallback::none;
  double weight_sum = 0;    ///< Σ s^p of the sum
  std::int64_t tokens = 0;  ///< of the sum
  RtnReason rtn_reason = RtnReason::none;
  CrossSum cross_of = CrossSum::none;
  bool usable() const { return fallback != Fallback::rtn; }
};

/// What a solver keeps of a factor; where it lies and in which layout only that solver knows.
class FactorData {
 public:
  virtual ~FactorData() = default;
};

/// U of Hλ = H/weight_sum + λ·mean(diag)·I = U Uᵀ. Copies share their data, which never change.
struct Factor : FactorFacts {
  std::shared_ptr<FactorData> data{};  ///< null when not usable
  /// C = cross sum / weight_sum. Where there is one, solve aims at W + R Hλ⁻¹ in place of W, with R
  /// = W C (of inputs, `[columns, columns]`) or C (of outputs, `[rows of the matrix, columns]`).
  std::shared_ptr<Matrix> lack{};
};

/// A factor on its way between ranks: what is said before its arrays, whose bytes follow as they
/// are. Between ranks with the same solver only.
struct FactorHeader {
  FactorFacts facts;
  std::array<std::int64_t, 5> sizes;  ///< elements of each array
};

/// A sum to be factored. The sums are consumed.
struct FactorTask {
  WeightedSum sum;
  Index columns = 0;
  WeightedSum cross = {};  ///< `[., columns]` row by row (Solver::add_cross); may be empty
  CrossSum cross_of = CrossSum::none;
  Factor factor = {};  ///< filled
};

/// Rows that are worked on together; a slice of a matrix begins at a multiple of it.
inline constexpr Index kRowTile = 64;

/// A slice of rows of one matrix and the place for its result.
struct SolveTask {
  MatrixView<const float>
      weight;           ///< `[rows, columns]`: rows [first_row, first_row + rows) of the matrix
  Index first_row = 0;  ///< multiple of kRowTile
  Scheme scheme = {};
  ScaleRule scale_rule = ScaleRule::best;
  Grid tensor_grid = {};   ///< used when the scheme is per tensor; fitted on the whole matrix
  float global_scale = 1;  ///< nvfp4: fitted on all matrices that share it (fit_global_scale)
  bool refine = true;      ///< false: without the sweeps of the settings (too few tokens)
  const Factor* factor = nullptr;  ///< null, or not usable: round to nearest
  /// Output factors B of the tiles: `[rows, kRowTile]`, sums as of add_outputs. With them as many
  /// sweeps more lower tr(B E Hλ Eᵀ) of each tile; empty: rows do not depend on each other.
  MatrixView<const float> output_factor = {};
  /// Filled with the rows that the result should come near where they are not `weight`; w below.
  Matrix target = {};
  QuantizedMatrix result = {};  ///< filled
  /// Filled when there is a usable factor: per row ‖(w−q)U‖², of GPTQ and of round to nearest, and
  /// ‖wU‖². The last two only on rows with (first_row + r) % kErrorRowStride == 0, else 0. Where a
  /// row's error overflows, its tile of kRowTile rows is rounded and their errors are infinite.
  std::vector<double> error = {}, error_rtn = {}, norm = {};
  /// Filled: per row ‖weight−q‖² and ‖weight‖², of what is stored.
  std::vector<double> weight_error = {}, weight_norm = {};
  /// Filled: groups whose weights ask for a float16 scale that rounds to infinity, or to 0 (its
  /// largest and its least value are stored then). A per-tensor scale counts with the first rows.
  std::int64_t scales_above = 0, scales_below = 0;
};
/// Round-to-nearest errors and norms cost as much as the solution: taken on every 16th row.
inline constexpr Index kErrorRowStride = 16;

/// Grid of a per-tensor scheme for the whole matrix: absmax, or the least squared error.
Grid fit_tensor_grid(const Scheme& scheme, MatrixView<const float> weight, ScaleSearch search);

/// The mathematics of a run on one kind of processor. Threads and streams are its own business:
/// called from the thread that leads a rank, it uses all of them; the bits are the same for any
/// number.
class Solver {
 public:
  virtual ~Solver() = default;

  /// "CPU", or the card: solutions of others may differ in their last bits.
  virtual std::string name() const = 0;

  /// sum += Σ weights[t] x_t x_tᵀ over rows `rows` of x (all of them when empty), weights 1 when
  /// empty; adds the token count and `weight_sum`. Allocates on first use. Bits depend on the
  /// shapes of the calls alone. Threads of the caller may call it side by side, each for a sum of
  /// its own. (docs/design.md, Hessians)
  virtual void add_tokens(WeightedSum& sum, MatrixView<const float> x,
                          std::span<const std::int32_t> rows, std::span<const float> weights,
                          double weight_sum) const = 0;

  /// sum += Σ weights[t] d_t x_tᵀ, `[columns of d, columns of x]` row by row; the rest as for
  /// add_tokens.
  virtual void add_cross(WeightedSum& sum, MatrixView<const float> d, MatrixView<const float> x,
                         std::span<const std::int32_t> rows, std::span<const float> weights,
                         double weight_sum) const = 0;

  /// Tasks that are best given to factorize and solve at one time; plan counts memory for them.
  virtual Index tasks_at_once() const = 0;

  /// Normalises, repairs dead channels, damps and factors each sum. Climbs the ladder where it must
  /// (Fallback); when all fails, or a sum is empty or not finite, the factor is not usable() and
  /// the caller rounds. A cross sum becomes the factor's `lack`.
  virtual void factorize(std::span<FactorTask> tasks, const GptqSettings& settings) const = 0;

  /// Solves all tasks. A row's result depends on the row, the factor, the scheme and the kernel of
  /// the processor (BlasInfo::row_kernel) alone. Grids of groups are fitted on the current values
  /// when the group begins (with static act-order on the original ones), per channel on the
  /// original row, per tensor they are given.
  virtual void solve(std::span<SolveTask> tasks, const GptqSettings& settings) const = 0;

  /// How a factor travels: its header, then the bytes of its arrays, at the place where this solver
  /// keeps them.
  virtual FactorHeader header_of(const Factor& factor) const = 0;
  /// A factor with room for the arrays that a header announces.
  virtual Factor make_factor(const FactorHeader& header) const = 0;
  /// Not empty ones, in the order in which they travel.
  virtual std::vector<Buffer> arrays_of(Factor& factor) const = 0;
};

/// That of the CPU.
const Solver& default_solver();

/// Where sums and factors are made and matrices solved.
enum class SolverDevice {
  automatic,  ///< the CPU, as long as the kernels of GPUs have not run on one
  cpu,
  cuda,
  emulated,  ///< what runs on GPUs, on the CPU and slowly: for tests
};

/// GPUs that this process sees and that can run the kernels.
struct VisibleGpus {
  std::vector<std::string> ids;  ///< of each, unlike that of any other card
  std::string reason;            ///< why there is none
};
VisibleGpus visible_gpus();

/// Deals the GPUs of one machine to its ranks, one each, whether all of them see all or each its
/// own.
/// @param seen  of each rank: ids of what it sees, in its order
/// @return of each rank: which of those that it sees; -1 where none is left
std::vector<int> deal_gpus(const std::vector<std::vector<std::string>>& seen);

/// The solver there. @param gpu  which of the visible ones, with SolverDevice::cuda
const Solver& find_solver(SolverDevice device, int gpu = 0);

/// What `doctor` says of GPUs: how many there are, or why there is none.
std::string gpu_text();

/// Round to nearest of a whole matrix; absmax scales.
QuantizedMatrix round_to_nearest(MatrixView<const float> weight, const Scheme& scheme);

/// What the BLAS library is and which kernel it chose: "OpenBLAS 0.3.21", "Cooperlake"; and the
/// instruction set of the kernels of this module: "x86-64-v4", "x86-64-v3" or "baseline". Hessian
/// sums, factors and solutions depend on the latter, cross sums, targets and output factors on
/// BLAS, as does the float64 rung of the ladder; "x86-64-v3" and "x86-64-v4" give the same codes of
/// one target.
struct BlasInfo {
  std::string library, kernel, row_kernel;
  /// Empty, or a warning with the variable to export when the kernel does not fit this CPU.
  std::string warning;
};
BlasInfo blas_info();
/// The warning for a kernel of OpenBLAS on a CPU with these instructions; empty when it fits.
std::string blas_warning(std::string_view kernel, bool avx2, bool avx512);
/// BLAS calls of this process use one thread from now on (our own loops use the threads).
void use_single_threaded_blas();

}  // namespace aq
