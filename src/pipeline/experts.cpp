#include "pipeline/experts.h"

#include <algorithm>
#include <iterator>

#include "aq/forward/dispatched_run.h"

namespace aq {

std::vector<ExpertCalibration> choose_tokens(const QuantizeSettings& settings,
                                             const LayerSpec& layer,
                                             std::span<const std::int64_t> expert_tokens) {
  std::vector<ExpertCalibration> chosen;
  for (const std::int64_t tokens : expert_tokens) {
    if (settings.expert_tokens == ExpertTokens::all)
      chosen.push_back({CalibratedOn::all, "none"});
    else if (tokens >= settings.min_tokens)
      chosen.push_back({CalibratedOn::routed, "none"});
    else if (settings.starved == Starved::all_tokens)
      chosen.push_back({CalibratedOn::all, "starved_all_tokens"});
    else
      chosen.push_back({CalibratedOn::nothing, "starved_rtn"});
  }
  chosen.resize(layer.mlps.size());
  return chosen;
}

std::vector<bool> staying(std::span<const ExpertCalibration> calibrations) {
  std::vector<bool> stays;
  for (const ExpertCalibration& calibration : calibrations)
    stays.push_back(calibration.tokens == CalibratedOn::all);
  return stays;
}

namespace {

/// What each expert's Hessian in `stage` is summed over; nothing where none is needed.
std::vector<CalibratedExpert> summed_experts(const ExpertTasks& tasks, const StagePlan& stage,
                                             std::span<const ExpertCalibration> calibrations) {
  std::vector<CalibratedExpert> experts;
  for (std::size_t i = 0; i < tasks.experts.size(); ++i) {
    const Index expert = tasks.experts[i];
    experts.push_back({expert, stage.tasks[i].needs_hessian ? calibrations[expert].tokens
                                                            : CalibratedOn::nothing});
  }
  return experts;
}

/// Quantizes some experts of a wave from the tokens of `pass`: sums of this rank's tokens go to the
/// owners, or each owner has all tokens of its experts. With `hidden` the experts run with their
/// new gate and up, and what down reads is kept there.
std::vector<QuantizedRecord> quantize_experts(StageContext& context, const ExpertTasks& tasks,
                                              const ExpertPass& pass,
                                              std::span<const ExpertCalibration> calibrations,
                                              ByExpert* hidden) {
  const ExpertSums sums{context.solver, pass, context.settings.routing_exponent};
  const bool at_owner = pass.at == TokensAt::owner;
  const auto quantize = [&](const StagePlan& stage, std::vector<TaskPartials> partials) {
    std::vector<TaskCalibration> found;
    for (std::size_t i = 0; i < partials.size(); ++i)
      found.push_back({std::move(partials[i]), calibrations[tasks.experts[i]].starved});
    return quantize_stage(context, stage,
                          at_owner ? own_sums(context, stage, std::move(found))
                                   : reduce_sums(context, stage, std::move(found)),
                          at_owner ? Codes::at_owner : Codes::everywhere);
  };
  std::vector<QuantizedRecord> gate_up =
      quantize(tasks.gate_up, timed(context.times, Phase::hessian, "inputs of gate and up", [&] {
                 return sums.gate_up(summed_experts(tasks, tasks.gate_up, calibrations));
               }));
  std::vector<QuantizedRecord> down =
      quantize(tasks.down, timed(context.times, Phase::forward, "gate and up", [&] {
                 return sums.down(summed_experts(tasks, tasks.down, calibrations), hidden);
               }));
  return in_model_order(std::move(gate_up), std::move(down));
}

/// A wave some of whose experts get their tokens from all ranks; y gets all outputs in ascending
/// order.
std::vector<QuantizedRecord> quantize_dispatched(StageContext& context, const WaveSplit& split,
                                                 const ExpertPass& home,
                                                 std::span<const ExpertCalibration> calibrations,
                                                 Tensor* y) {
  std::vector<QuantizedRecord> records;
  const auto append = [&records](std::vector<QuantizedRecord> some) {
    std::move(some.begin(), some.end(), std::back_inserter(records));
  };
  std::vector<Index> stay;
  for (const ExpertTasks& tasks : split.reduced) {
    append(quantize_experts(context, tasks, home, calibrations, nullptr));
    stay.insert(stay.end(), tasks.experts.begin(), tasks.experts.end());
  }
  const ExpertTasks& away = split.dispatched;
  std::vector<int> owners;
  for (const TaskPlan& task : away.down.tasks) owners.push_back(task.owner);
  Dispatch dispatch(context.transport, context.lanes, home, away.experts, owners);
  timed(context.times, Phase::dispatch, "inputs of experts", [&] { dispatch.gather(); });
  ByExpert hidden;
  append(quantize_experts(context, away, dispatch.owner(), calibrations,
                          y != nullptr ? &hidden : nullptr));
  dispatch.forget_inputs();
  if (y != nullptr) combine_outputs(dispatch, stay, std::move(hidden), context.times, *y);
  std::stable_sort(records.begin(), records.end(),
                   [](const QuantizedRecord& a, const QuantizedRecord& b) {
                     return a.row.stats.expert < b.row.stats.expert;
                   });
  return records;
}

}  // namespace

std::vector<QuantizedRecord> quantize_wave(StageContext& context, const WavePlan& wave,
                                           const ExpertPass& pass,
                                           std::span<const std::int64_t> expert_tokens,
                                           std::span<const ExpertCalibration> calibrations,
                                           Tensor* y) {
  if (context.dispatch && wave.is_routed()) {
    const WaveSplit split = split_wave(wave, expert_tokens, staying(calibrations),
                                       context.comm.size(), context.settings.gptq.refine);
    return quantize_dispatched(context, split, pass, calibrations, y);
  }
  ByExpert hidden;
  std::vector<QuantizedRecord> records = quantize_experts(
      context, whole_wave(wave), pass, calibrations, y != nullptr ? &hidden : nullptr);
  if (y != nullptr)
    timed(context.times, Phase::forward, "down", [&] { pass.add_down(std::move(hidden), *y); });
  return records;
}

std::vector<QuantizedRecord> in_model_order(std::vector<QuantizedRecord> gate_up,
                                            std::vector<QuantizedRecord> down) {
  std::vector<QuantizedRecord> all;
  std::size_t next = 0;
  for (QuantizedRecord& record : down) {
    while (next < gate_up.size() && gate_up[next].task <= record.task)
      all.push_back(std::move(gate_up[next++]));
    all.push_back(std::move(record));
  }
  while (next < gate_up.size()) all.push_back(std::move(gate_up[next++]));
  return all;
}

}  // namespace aq
