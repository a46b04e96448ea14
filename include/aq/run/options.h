#pragma once
/// What a quantization run is told.

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "aq/comm/watchdog.h"
#include "aq/core/weighted_sum.h"
#include "aq/export/export.h"
#include "aq/export/servability.h"
#include "aq/plan/choose.h"
#include "aq/plan/machine.h"
#include "aq/quant/solver.h"
#include "aq/recipe/recipe.h"

namespace aq {

enum class Resume {
  automatic,  ///< go on where an equal run ended; refuse another one
  never,      ///< start afresh
  require,    ///< refuse to start afresh
};

/// Elements that the products of the forward pass multiply; sums are float32.
enum class Compute {
  automatic,  ///< bf16 where every rank's processor multiplies it
  fp32,
  bf16,
};

struct QuantizeOptions {
  std::filesystem::path model;             ///< checkpoint directory
  std::filesystem::path architecture;      ///< JSON file (architecture_json.h); empty: found out
  std::vector<std::string> assume_unused;  ///< keys of config.json (describe_model)
  Recipe recipe;
  std::filesystem::path calibration;  ///< token file; may be empty with `hessians`
  std::filesystem::path save;         ///< run directory
  Index samples = 0;                  ///< sequences to use; 0: all
  Index sequence_length = 0;          ///< tokens a sequence; 0: as in the file
  Index lanes = 0;                    ///< 0: default_lane_count
  Index memory = 0;                   ///< bytes a rank; 0: what the machine has free
  std::filesystem::path offload;      ///< activations lie in files there; empty: in memory
  Compute compute = Compute::automatic;
  SolverDevice device = SolverDevice::automatic;
  const Solver* solver = nullptr;  ///< set by resolve()
  TokensToExperts tokens_to_experts = TokensToExperts::automatic;
  std::optional<Machine> machine;  ///< what planned seconds are computed for
  Resume resume = Resume::automatic;
  Index save_activations = 0;      ///< keep what every so-many-th layer gives; 0: never
  bool keep_hessians = false;      ///< write the sums of every task into the run directory
  std::filesystem::path hessians;  ///< a run that kept them: quantize without a forward pass
  bool strict = false;             ///< a pattern that matches nothing is an error
  Index max_fallbacks = -1;        ///< more are an error (exit code 4); negative: no limit
  std::optional<ExportOptions> export_to;  ///< what is exported when the run is done
  ServingOptions serving;                  ///< servers that must load it
  StallWatch* stall_watch = nullptr;       ///< told of the directory when it is this run's
  /// For tests: sees every finished Hessian sum on its owner before it is factored.
  std::function<void(const std::string& first_linear, Index columns, const WeightedSum& sum)>
      hessian_observer;
};

}  // namespace aq
