#pragma once
/// `-> quantize` of the run: sum my lanes' H -> reduce to owners -> factor, GPTQ -> exchange.

#include "aq/core/timer.h"
#include "aq/plan/plan.h"
#include "pipeline/calibration.h"
#include "pipeline/records.h"

namespace aq {

/// Called on the owner with every finished sum, before it is factored.
using HessianObserver = std::function<void(const TaskPlan& task, const WeightedSum& sum)>;

/// What a stage needs besides its plan.
struct StageContext {
  Communicator& comm;
  const LaneLayout& lanes;
  const QuantizeSettings& settings;
  Weights& weights;
  PhaseTimes& times;
  HessianObserver observer;
};

/// What calibration found for one task.
struct TaskCalibration {
  LanePartials partials;         ///< of this rank; empty without a Hessian
  std::string starved = "none";  ///< or what was done with a starved expert
};

/// Quantizes every matrix of the stage and puts the results into context.weights on every rank.
/// Collective. Returns the records of all matrices in plan order; only the rank that writes a
/// matrix gets it in its record.
std::vector<QuantizedRecord> quantize_stage(StageContext& context, const StagePlan& stage,
                                            std::vector<TaskCalibration> calibrations);

}  // namespace aq
