#pragma once
/// Who does what: a pure value, the same on every rank, made without MPI.

#include <string>
#include <vector>

#include "aq/comm/lanes.h"
#include "aq/core/stage.h"
#include "aq/recipe/assignments.h"

namespace aq {

/// With fewer calibration tokens than this for each input channel, refinement fits their noise:
/// docs/fidelity.md. The run leaves it out then.
inline constexpr double kRefineTokensPerColumn = 0.25;

/// Rows of a matrix that one rank solves; they begin at a multiple of kRowTile.
struct Slice {
  int rank = 0;
  Range rows;
};

struct MatrixPlan {
  LinearSpec linear;
  Assignment assignment;
  std::vector<Slice> slices;  ///< in row order, covering every row; empty for Method::copy
  bool coupled = false;       ///< its rows are refined together, under an output factor
  /// The rank that writes the matrix into its shard: that of the first slice.
  int writer() const { return slices.empty() ? -1 : slices.front().rank; }
};

/// Linears that share one input and so one Hessian and one factor.
struct TaskPlan {
  std::vector<MatrixPlan> matrices;
  Index columns = 0;
  Index expert = -1;                   ///< -1 when not of a routed expert
  int owner = 0;                       ///< collects the Hessian and factors it
  bool needs_hessian = false;          ///< some matrix is quantized by GPTQ
  CrossSum cross_of = CrossSum::none;  ///< that is made beside the Hessian, `[cross_rows, columns]`
  Index cross_rows = 0;
  Index output_rows = 0;  ///< of the matrices with output factors, which are made beside it
  bool split = false;     ///< rows are solved by several ranks: the owner sends the factor
};

/// Tasks that are worked on together.
struct StagePlan {
  Stage stage = Stage::qkv;
  std::vector<TaskPlan> tasks;
  double balance = 1;  ///< mean work of a rank / work of the busiest rank
  bool needs_hessian() const;
  bool has_output_factors() const;
  bool quantizes() const;  ///< some matrix is not copied
};

/// What the planned memory of a wave with dispatched experts allows; 0: no limit.
struct DispatchLimits {
  Index rows = 0;     ///< tokens that come to one owner, those of several experts each time
  Index experts = 0;  ///< of one owner
  Index reduced = 0;  ///< experts whose sums every rank has at one time
};

/// MLPs of one kind, by their numbers in the layer, as many as fit the memory limit.
struct WavePlan {
  MlpKind kind = MlpKind::dense;
  Range experts;
  StagePlan gate_up{.stage = Stage::gate_up, .tasks = {}}, down{.stage = Stage::down, .tasks = {}};
  DispatchLimits limits = {};

  bool is_routed() const { return kind == MlpKind::routed; }
};

struct LayerPlan {
  Index index = 0;
  std::vector<StagePlan> before_mlps;  ///< attention and routers, in the order of work
  std::vector<WavePlan> waves;

  /// Of attention and routers; without tasks when the layer has no such stage.
  const StagePlan& stage(Stage stage) const;

  /// Every stage in the order of work.
  std::vector<const StagePlan*> stages() const;
};

/// Bytes of one rank at one moment, without code, libraries' code and the page cache.
struct MemoryEstimate {
  Index activations =
      0;  ///< residual and norm, latents, attention output, inputs of down, sum of outputs
  Index buffers = 0;    ///< of sequences, experts and messages in work; lists of tokens
  Index hessians = 0;   ///< partial sums with their tree levels, and factors
  Index weights = 0;    ///< originals in work and packed results
  Index libraries = 0;  ///< of BLAS, LibTorch, HDF5, MPI, and what threads keep for later
  Index offloaded = 0;  ///< activations in files, which are no memory
  Index total() const { return activations + buffers + hessians + weights + libraries; }
  MemoryEstimate& operator+=(const MemoryEstimate& other);
};

/// The most that a rank has in one phase of a stage.
struct MemoryMoment {
  Stage stage = Stage::embed;
  Phase phase = Phase::embed;
  MemoryEstimate memory;
};

struct Plan {
  int ranks = 1;
  bool dispatch = false;  ///< tokens travel to the owners of routed experts (dispatch.h)
  LaneLayout lanes;
  std::vector<LayerPlan> layers;
  StagePlan head{.stage = Stage::head, .tasks = {}};
  MemoryEstimate memory;  ///< of the rank with the most, at its peak
  /// The most of any layer by stage and phase, in the order of work.
  std::vector<MemoryMoment> moments;
  Index one_wave_bytes = 0;   ///< that a rank would need without waves
  MemoryMoment least;         ///< the one with the most when experts come one at a time
  Index offloaded_bytes = 0;  ///< most that a rank has in files at one time
  Index matrix_count = 0, quantized_count = 0;
  double mean_bits = 0;  ///< stored bits a weight over the quantized matrices
  double balance = 1;    ///< least balance of any stage with at least as many tasks as ranks
};

struct PlanLimits {
  Index memory = 0;    ///< bytes of a rank; 0: no limit
  int threads = 1;     ///< of a rank: buffers in work
  int node_ranks = 0;  ///< that share a machine; 0: all
  bool dispatch = false;
  bool bf16 = false;     ///< inputs of linears are bfloat16 beside their float32
  bool offload = false;  ///< activations lie in files
};

struct Workload {
  LaneLayout lanes;
  Index sequence_length = 0;  ///< tokens of the longest sequence
};

/// What the user asks of the calibration tokens; 0: all, or default_lane_count.
struct WorkloadChoice {
  Index samples = 0;
  Index sequence_length = 0;
  Index lanes = 0;
};
/// The choice among `sequences` of `length` tokens. Throws Error{input} naming `object` when there
/// are not so many or the model takes no sequences of that length, and Error{usage} when the lanes
/// are no power of two or more than there are sequences.
Workload make_workload(const Model& model, Index sequences, Index length,
                       const WorkloadChoice& choice, const std::string& object);

/// In the way that `limits` name; choose.h chooses one. Throws Error{policy} when even waves of one
/// expert do not fit `limits.memory` (saying what would).
Plan make_plan(const Model& model, const Assignments& assignments, int ranks,
               const Workload& workload, const PlanLimits& limits);

/// Longest-processing-time-first: the rank of each cost. Ties go to the lower rank.
std::vector<int> place_longest_first(const std::vector<double>& costs, int ranks);

}  // namespace aq
