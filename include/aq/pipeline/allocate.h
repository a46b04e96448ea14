#pragma once
/// Bits where they count: a recipe that gives each part of a model the format in which a given
/// number of bits costs the model least.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "aq/allocate/known_losses.h"
#include "aq/allocate/units.h"
#include "aq/comm/communicator.h"
#include "aq/run/options.h"

namespace aq {

/// What a unit loses in a format.
enum class Sensitivity {
  measured,    ///< KL of the model with this unit alone quantized
  error,       ///< relative errors of its matrices' outputs, by their Hessians
  alpha_hill,  ///< its weights' share of 4^-bits, times the mean alpha_hill of its matrices
  uniform,     ///< its weights' share of 4^-bits: every weight counts alike
};
inline constexpr std::string_view kSensitivityNames[] = {"measured", "error", "alpha-hill",
                                                         "uniform"};

struct AllocateOptions {
  /// Model, tokens, lanes, memory and device; the recipe decides all but formats (settings,
  /// linears that stay as they are); `save` holds a run a format, each with its name.
  QuantizeOptions quantize;
  std::vector<UnitFormat> formats;
  double mean_bits = 0;  ///< stored bits a weight over the units; 0: most_bytes counts
  Index most_bytes = 0;  ///< of the whole checkpoint
  std::string target;    ///< of serving_targets(); empty: none
  ServingPlan plan;      ///< how it will be started
  Sensitivity sensitivity = Sensitivity::measured;
  Index kl_samples = 32;  ///< calibration sequences over which KL is measured
};

/// One unit in one format.
struct UnitFigures {
  Index bits = 0;      ///< stored, scales included; as the checkpoint has it for bf16
  UnitLoss loss;       ///< as the sensitivity has it
  bool served = true;  ///< by the target
};

struct AllocatedUnit {
  std::string name;
  Index matrices = 0, weights = 0;
  std::vector<UnitFigures> formats;
  Index chosen = 0;
};

/// Sums over the units, of one choice.
struct AllocationSums {
  double mean_bits = 0;
  Index bytes = 0;  ///< of the whole checkpoint
  double loss = 0;
};

struct Allocation {
  std::vector<AllocatedUnit> units;
  AllocationSums chosen;
  /// Every unit in the same format; nothing where the target does not serve that.
  std::vector<std::optional<AllocationSums>> uniform;
  std::string recipe;  ///< JSON
};

/// Quantizes the model once in each format, from Hessians of the original model that are summed and
/// kept by the first of these runs, measures what each unit loses in each, and chooses. What is
/// there in `save` is used again: other bits, targets and sensitivities cost nothing more.
/// Throws Error{usage} when even the smallest formats take more. Collective; every rank returns the
/// same.
Allocation allocate(const AllocateOptions& options, Communicator& comm);

}  // namespace aq
