#include "pipeline/experts.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/forward/dispatch.h"
#include "aq/forward/expert_outputs.h"
#include "aq/plan/dispatch.h"

namespace aq {
namespace {

/// Some experts of a wave in work.
class Wave {
 public:
  Wave(StageContext& context, const ExpertTasks& plan, const ExpertInputs& inputs,
       std::span<const ExpertCalibration> calibrations)
      : context_(context), plan_(plan), inputs_(inputs), calibrations_(calibrations) {}

  std::vector<TaskCalibration> sum_gate_up() {
    const PhaseTimer timer(context_.times, Phase::hessian);
    std::vector<TaskCalibration> result = start(plan_.gate_up);
    for_each_expert(busy(plan_.gate_up), [&](Index i) {
      if (summed_on(plan_.gate_up, i) == CalibratedOn::routed)
        result[static_cast<std::size_t>(i)].partials = sum_routed(i, [&](Index lane) {
          return LaneRows{inputs_.normed.view(), routed(i).rows_of_lane(lane)};
        });
    });
    share_all_tokens(result);
    return result;
  }

  /// Runs gate and up of the wave's experts and sums the Hessians of down over what comes out. The
  /// outputs are kept in `hidden` where they are wanted.
  std::vector<TaskCalibration> run_gate_up(std::vector<Matrix>* hidden) {
    const PhaseTimer timer(context_.times, Phase::forward);
    std::vector<TaskCalibration> result = start(plan_.down);
    for_each_expert(busy(plan_.down), [&](Index i) {
      const CalibratedOn summed = summed_on(plan_.down, i);
      const bool runs = hidden != nullptr || summed == CalibratedOn::routed;
      const bool has_tokens = runs && routed(i).size() > 0;
      if (!has_tokens && summed != CalibratedOn::all) return;
      const GateUp weights = gate_up_weights(inputs_.layer.mlp(number(i)), inputs_.weights);
      Matrix out;
      if (has_tokens) out = hidden_of_list(weights, inputs_.normed, routed(i), inputs_.batch);
      LanePartials& partials = result[static_cast<std::size_t>(i)].partials;
      if (summed == CalibratedOn::routed)
        partials = sum_routed(i, [&](Index lane) -> LaneRows {
          const Range rows = routed(i).lane(lane);
          return {out.view().slice_rows(rows.begin, rows.size()), {}};
        });
      if (summed == CalibratedOn::all) partials = sum_hidden_of_all(weights);
      if (hidden != nullptr) (*hidden)[static_cast<std::size_t>(i)] = std::move(out);
    });
    return result;
  }

 private:
  Index count() const { return std::ssize(plan_.experts); }
  /// In the layer.
  Index number(Index i) const { return plan_.experts[static_cast<std::size_t>(i)]; }
  const ExpertCalibration& calibration(Index i) const {
    return calibrations_[static_cast<std::size_t>(number(i))];
  }
  /// The tokens that the forward pass sends to expert i of the wave.
  const TokenList& routed(Index i) const {
    return inputs_.routing.experts[static_cast<std::size_t>(number(i))];
  }
  /// What the Hessian of expert i is summed over; nothing where none is needed.
  CalibratedOn summed_on(const StagePlan& stage, Index i) const {
    const bool needed = stage.tasks[static_cast<std::size_t>(i)].needs_hessian;
    return needed ? calibration(i).tokens : CalibratedOn::nothing;
  }

  /// Experts that have tokens here, or are summed over those of all experts.
  std::vector<Index> busy(const StagePlan& stage) const {
    std::vector<Index> places;
    for (Index i = 0; i < count(); ++i)
      if (routed(i).size() > 0 || summed_on(stage, i) == CalibratedOn::all) places.push_back(i);
    return places;
  }

  std::vector<TaskCalibration> start(const StagePlan& stage) const {
    std::vector<TaskCalibration> result(stage.tasks.size());
    for (Index i = 0; i < count(); ++i)
      result[static_cast<std::size_t>(i)].starved = calibration(i).starved;
    return result;
  }

  LanePartials sum_routed(Index i, const std::function<LaneRows(Index)>& lane_input) const {
    return sum_routed_tokens(context_.solver, inputs_.batch, routed(i),
                             context_.settings.routing_exponent, lane_input);
  }

  /// gate and up of experts that are calibrated on all tokens have the same sum: the first one
  /// computes it.
  void share_all_tokens(std::vector<TaskCalibration>& result) const {
    const LanePartials* first = nullptr;
    for (Index i = 0; i < count(); ++i) {
      if (summed_on(plan_.gate_up, i) != CalibratedOn::all) continue;
      LanePartials& partials = result[static_cast<std::size_t>(i)].partials;
      if (first == nullptr)
        partials = sum_all_tokens(context_.solver, inputs_.batch, [&](Range rows, Matrix&) {
          return inputs_.normed.view().slice_rows(rows.begin, rows.size());
        });
      else
        partials = *first;
      first = &partials;
    }
  }

  /// Σ over activation(gate x, up x) of every token, sequence by sequence.
  LanePartials sum_hidden_of_all(const GateUp& weights) const {
    return sum_all_tokens(context_.solver, inputs_.batch,
                          [&](Range rows, Matrix& scratch) -> MatrixView<const float> {
                            std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows.size()));
                            std::iota(tokens.begin(), tokens.end(),
                                      checked_cast<std::int32_t>(rows.begin));
                            scratch = hidden_of(weights, inputs_.normed, tokens);
                            return scratch.view();
                          });
  }

  StageContext& context_;
  const ExpertTasks& plan_;
  const ExpertInputs& inputs_;
  std::span<const ExpertCalibration> calibrations_;
};

}  // namespace

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

namespace {

/// Quantizes experts whose tokens stay where they are. `hidden` gets what down reads.
std::vector<QuantizedRecord> quantize_reduced(StageContext& context, const ExpertTasks& tasks,
                                              const ExpertInputs& inputs,
                                              std::span<const ExpertCalibration> calibrations,
                                              std::vector<Matrix>* hidden) {
  Wave work(context, tasks, inputs, calibrations);
  std::vector<QuantizedRecord> gate_up = quantize_stage(
      context, tasks.gate_up, reduce_sums(context, tasks.gate_up, work.sum_gate_up()));
  if (hidden != nullptr) hidden->resize(tasks.experts.size());
  std::vector<QuantizedRecord> down = quantize_stage(
      context, tasks.down, reduce_sums(context, tasks.down, work.run_gate_up(hidden)));
  return in_model_order(std::move(gate_up), std::move(down));
}

/// Owner of each task.
std::vector<int> owners_of(const StagePlan& stage) {
  std::vector<int> owners;
  for (const TaskPlan& task : stage.tasks) owners.push_back(task.owner);
  return owners;
}

/// Quantizes experts whose tokens come to their owners. `hidden` gets what down reads there.
std::vector<QuantizedRecord> quantize_dispatched(StageContext& context, Dispatch& dispatch,
                                                 const ExpertTasks& tasks,
                                                 const ExpertInputs& inputs,
                                                 std::span<const ExpertCalibration> calibrations,
                                                 std::vector<Matrix>* hidden) {
  Matrix normed;
  {
    const PhaseTimer timer(context.times, Phase::dispatch);
    normed = dispatch.gather(inputs.normed);
  }
  const ExpertInputs here{inputs.layer,       dispatch.batch(), normed,
                          dispatch.routing(), inputs.weights,   inputs.expert_tokens};
  Wave work(context, tasks, here, calibrations);
  std::vector<QuantizedRecord> gate_up =
      quantize_stage(context, tasks.gate_up, own_sums(context, tasks.gate_up, work.sum_gate_up()),
                     Codes::at_owner);
  if (hidden != nullptr) hidden->resize(tasks.experts.size());
  std::vector<QuantizedRecord> down =
      quantize_stage(context, tasks.down, own_sums(context, tasks.down, work.run_gate_up(hidden)),
                     Codes::at_owner);
  return in_model_order(std::move(gate_up), std::move(down));
}

/// Reduced and dispatched experts of one wave; y gets their outputs in ascending order.
std::vector<QuantizedRecord> quantize_split(StageContext& context, const WaveSplit& split,
                                            const ExpertInputs& inputs,
                                            std::span<const ExpertCalibration> calibrations,
                                            Matrix* y) {
  std::vector<QuantizedRecord> records;
  const auto append = [&records](std::vector<QuantizedRecord> some) {
    std::move(some.begin(), some.end(), std::back_inserter(records));
  };
  std::vector<Index> stay;
  for (const ExpertTasks& tasks : split.reduced) {
    append(quantize_reduced(context, tasks, inputs, calibrations, nullptr));
    stay.insert(stay.end(), tasks.experts.begin(), tasks.experts.end());
  }
  const ExpertTasks& away = split.dispatched;
  const std::vector<int> owners = owners_of(away.down);
  Dispatch dispatch(context.comm, context.lanes, inputs.batch, inputs.routing, away.experts,
                    owners);
  std::vector<Matrix> hidden;
  append(quantize_dispatched(context, dispatch, away, inputs, calibrations,
                             y != nullptr ? &hidden : nullptr));
  std::stable_sort(records.begin(), records.end(),
                   [](const QuantizedRecord& a, const QuantizedRecord& b) {
                     return a.row.stats.expert < b.row.stats.expert;
                   });
  for (std::size_t i = 0; i < owners.size(); ++i)
    context.expert_owners[static_cast<std::size_t>(away.experts[i])] = owners[i];
  if (y != nullptr)
    add_expert_outputs(dispatch,
                       {inputs.layer, inputs.weights, inputs.batch, inputs.normed, inputs.routing},
                       stay, std::move(hidden), context.times, *y);
  return records;
}

}  // namespace

std::vector<QuantizedRecord> quantize_wave(StageContext& context, const WavePlan& wave,
                                           const ExpertInputs& inputs,
                                           std::span<const ExpertCalibration> calibrations,
                                           Matrix* y) {
  if (context.dispatch && wave.is_routed()) {
    std::vector<bool> stays;
    for (const ExpertCalibration& calibration : calibrations)
      stays.push_back(calibration.tokens == CalibratedOn::all);
    const WaveSplit split = split_wave(wave, inputs.expert_tokens, stays, context.comm.size(),
                                       context.settings.gptq.refine);
    return quantize_split(context, split, inputs, calibrations, y);
  }
  std::vector<Matrix> hidden;
  std::vector<QuantizedRecord> records = quantize_reduced(
      context, whole_wave(wave), inputs, calibrations, y != nullptr ? &hidden : nullptr);
  if (y != nullptr) {
    const PhaseTimer timer(context.times, Phase::forward);
    add_down(inputs.layer, inputs.weights, inputs.batch, inputs.routing, wave.experts, hidden, *y);
  }
  return records;
}

std::vector<Range> routed_waves(const LayerPlan& plan) {
  std::vector<Range> waves;
  for (const WavePlan& wave : plan.waves)
    if (wave.is_routed()) waves.push_back(wave.experts);
  return waves;
}

std::vector<int> owners_of_tokens(const LayerPlan& plan, std::span<const std::int64_t> tokens,
                                  int ranks) {
  std::vector<int> owners(tokens.size(), kEverywhere);
  const std::vector<bool> nobody_stays(tokens.size(), false);
  for (const WavePlan& wave : plan.waves) {
    if (!wave.is_routed()) continue;
    const ExpertTasks away = split_wave(wave, tokens, nobody_stays, ranks, 0).dispatched;
    for (std::size_t i = 0; i < away.experts.size(); ++i)
      owners[static_cast<std::size_t>(away.experts[i])] = away.down.tasks[i].owner;
  }
  return owners;
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
