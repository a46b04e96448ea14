#pragma once
/// `-> quantize` of the run: reduce my lanes' H to owners -> factor, GPTQ -> exchange.

#include "aq/comm/timed.h"
#include "aq/forward/calibration.h"
#include "aq/plan/plan.h"
#include "aq/run/records.h"
#include "pipeline/solved_slice.h"

namespace aq {

/// What calibration found for one task.
struct TaskCalibration {
  TaskPartials partials;         ///< of this rank; empty without a Hessian
  std::string starved = "none";  ///< or what was done with a starved expert
};

/// Called on the owner with every finished sum, before it is factored.
using HessianObserver = std::function<void(const TaskPlan& task, const TaskSum& sum)>;

/// Who gets the packed codes of a stage.
enum class Codes {
  everywhere,  ///< every rank: it runs its own tokens through the matrices
  at_owner,    ///< the owner alone: tokens come to it
};

/// What a stage needs besides its plan.
struct StageContext {
  Communicator& comm;
  Transport& transport;
  const Solver& solver;
  const LaneLayout& lanes;
  const QuantizeSettings& settings;
  const Weights& original;
  Weights& quantized;  ///< gets the results; what is not quantized yet is the original
  PhaseTimes& times;
  HessianObserver observer;
  bool dispatch = false;  ///< tokens travel to their experts
};

/// Brings the sums of all tasks to their owners. Collective.
std::vector<TaskSum> reduce_sums(StageContext& context, const StagePlan& stage,
                                 std::vector<TaskCalibration> calibrations);

/// The same where the owners have summed over the tokens of all ranks themselves.
std::vector<TaskSum> own_sums(StageContext& context, const StagePlan& stage,
                              std::vector<TaskCalibration> calibrations);

/// Quantizes every matrix of the stage and puts the results into context.quantized where `codes`
/// says. Collective. Returns the records of all matrices in plan order; only the rank that writes a
/// matrix gets it in its record.
/// @pre Codes::at_owner: no task is split
std::vector<QuantizedRecord> quantize_stage(StageContext& context, const StagePlan& stage,
                                            std::vector<TaskSum> sums,
                                            Codes codes = Codes::everywhere);

}  // namespace aq
