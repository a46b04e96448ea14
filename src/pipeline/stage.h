#pragma once
/// `-> quantize` of the run: reduce my lanes' H to owners -> factor, GPTQ -> exchange.

#include "aq/core/timer.h"
#include "aq/plan/plan.h"
#include "pipeline/calibration.h"
#include "pipeline/records.h"

namespace aq {

/// What calibration found for one task.
struct TaskCalibration {
  LanePartials partials;         ///< of this rank; empty without a Hessian
  std::string starved = "none";  ///< or what was done with a starved expert
};

/// The Hessian of one task.
struct TaskSum {
  WeightedSum sum;               ///< on the task's owner; empty elsewhere
  std::string starved = "none";  ///< on every rank
};

/// Called on the owner with every finished sum, before it is factored.
using HessianObserver = std::function<void(const TaskPlan& task, const TaskSum& sum)>;

/// What a stage needs besides its plan.
struct StageContext {
  Communicator& comm;
  const LaneLayout& lanes;
  const QuantizeSettings& settings;
  const Weights& original;
  Weights& quantized;  ///< gets the results; what is not quantized yet is the original
  PhaseTimes& times;
  HessianObserver observer;
};

/// Brings the sums of all tasks to their owners. Collective.
std::vector<TaskSum> reduce_sums(StageContext& context, const StagePlan& stage,
                                 std::vector<TaskCalibration> calibrations);

/// Quantizes every matrix of the stage and puts the results into context.quantized on every rank.
/// Collective. Returns the records of all matrices in plan order; only the rank that writes a
/// matrix gets it in its record.
std::vector<QuantizedRecord> quantize_stage(StageContext& context, const StagePlan& stage,
                                            std::vector<TaskSum> sums);

}  // namespace aq
