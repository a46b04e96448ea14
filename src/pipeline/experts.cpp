#include "pipeline/experts.h"

#include <numeric>

#include "aq/core/parallel.h"

namespace aq {
namespace {

/// One wave in work.
class Wave {
 public:
  Wave(StageContext& context, const WavePlan& plan, const ExpertInputs& inputs,
       std::span<const ExpertCalibration> calibrations)
      : context_(context), plan_(plan), inputs_(inputs), calibrations_(calibrations) {}

  std::vector<TaskCalibration> sum_gate_up() {
    const PhaseTimer timer(context_.times, "hessian");
    std::vector<TaskCalibration> result = start(plan_.gate_up);
    for_each_expert(plan_.experts.size(), [&](Index i) {
      if (summed_on(plan_.gate_up, i) == CalibratedOn::routed)
        result[static_cast<std::size_t>(i)].partials =
            sum_routed(i, plan_.gate_up, [&](Index lane) {
              return LaneRows{inputs_.normed.view(), routed(i).rows_of_lane(lane)};
            });
    });
    share_all_tokens(result);
    return result;
  }

  /// Runs gate and up of the wave's experts and sums the Hessians of down over what comes out. The
  /// outputs are kept in `hidden` where they are wanted.
  std::vector<TaskCalibration> run_gate_up(std::vector<Matrix>* hidden) {
    const PhaseTimer timer(context_.times, "forward");
    std::vector<TaskCalibration> result = start(plan_.down);
    for_each_expert(plan_.experts.size(), [&](Index i) {
      const CalibratedOn summed = summed_on(plan_.down, i);
      const bool runs = hidden != nullptr || summed == CalibratedOn::routed;
      const bool has_tokens = runs && routed(i).size() > 0;
      if (!has_tokens && summed != CalibratedOn::all) return;
      const GateUp weights =
          gate_up_weights(mlp_of(inputs_.layer, plan_.experts.begin + i), inputs_.weights);
      Matrix out;
      if (has_tokens) out = hidden_of_list(weights, inputs_.normed, routed(i), inputs_.batch);
      LanePartials& partials = result[static_cast<std::size_t>(i)].partials;
      if (summed == CalibratedOn::routed)
        partials = sum_routed(i, plan_.down, [&](Index lane) -> LaneRows {
          const Range rows = routed(i).lane(lane);
          return {out.view().slice_rows(rows.begin, rows.size()), {}};
        });
      if (summed == CalibratedOn::all) partials = sum_hidden_of_all(weights);
      if (hidden != nullptr) (*hidden)[static_cast<std::size_t>(i)] = std::move(out);
    });
    return result;
  }

 private:
  const ExpertCalibration& calibration(Index i) const {
    return calibrations_[static_cast<std::size_t>(plan_.experts.begin + i)];
  }
  /// The tokens that the forward pass sends to expert i of the wave.
  const TokenList& routed(Index i) const {
    return inputs_.routing.experts[static_cast<std::size_t>(plan_.experts.begin + i)];
  }
  /// What the Hessian of expert i is summed over; nothing where none is needed.
  CalibratedOn summed_on(const StagePlan& stage, Index i) const {
    const bool needed = stage.tasks[static_cast<std::size_t>(i)].needs_hessian;
    return needed ? calibration(i).tokens : CalibratedOn::nothing;
  }

  std::vector<TaskCalibration> start(const StagePlan& stage) const {
    std::vector<TaskCalibration> result(stage.tasks.size());
    for (Index i = 0; i < plan_.experts.size(); ++i)
      result[static_cast<std::size_t>(i)].starved = calibration(i).starved;
    return result;
  }

  LanePartials sum_routed(Index i, const StagePlan& stage,
                          const std::function<LaneRows(Index)>& lane_input) const {
    return sum_routed_tokens(inputs_.batch, routed(i), context_.settings.routing_exponent,
                             stage.tasks[static_cast<std::size_t>(i)].columns, lane_input);
  }

  /// gate and up of experts that are calibrated on all tokens have the same sum: the first one
  /// computes it.
  void share_all_tokens(std::vector<TaskCalibration>& result) const {
    const LanePartials* first = nullptr;
    for (Index i = 0; i < plan_.experts.size(); ++i) {
      if (summed_on(plan_.gate_up, i) != CalibratedOn::all) continue;
      LanePartials& partials = result[static_cast<std::size_t>(i)].partials;
      if (first == nullptr)
        partials = sum_all_tokens(inputs_.batch, inputs_.normed.columns, [&](Range rows, Matrix&) {
          return inputs_.normed.view().slice_rows(rows.begin, rows.size());
        });
      else
        partials = *first;
      first = &partials;
    }
  }

  /// Σ over activation(gate x, up x) of every token, sequence by sequence.
  LanePartials sum_hidden_of_all(const GateUp& weights) const {
    return sum_all_tokens(inputs_.batch, weights.gate.weight.rows,
                          [&](Range rows, Matrix& scratch) -> MatrixView<const float> {
                            std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows.size()));
                            std::iota(tokens.begin(), tokens.end(),
                                      checked_cast<std::int32_t>(rows.begin));
                            scratch = hidden_of(weights, inputs_.normed, tokens);
                            return scratch.view();
                          });
  }

  StageContext& context_;
  const WavePlan& plan_;
  const ExpertInputs& inputs_;
  std::span<const ExpertCalibration> calibrations_;
};

}  // namespace

std::vector<ExpertCalibration> choose_tokens(const QuantizeSettings& settings,
                                             const LayerSpec& layer,
                                             std::span<const std::int64_t> expert_tokens) {
  if (layer.dense) return {ExpertCalibration{}};
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
  if (layer.moe->shared) chosen.emplace_back();
  return chosen;
}

std::vector<QuantizedRecord> quantize_wave(StageContext& context, const WavePlan& wave,
                                           const ExpertInputs& inputs,
                                           std::span<const ExpertCalibration> calibrations,
                                           Matrix* y) {
  Wave work(context, wave, inputs, calibrations);
  std::vector<QuantizedRecord> gate_up =
      quantize_stage(context, wave.gate_up, reduce_sums(context, wave.gate_up, work.sum_gate_up()));
  std::vector<Matrix> hidden(static_cast<std::size_t>(wave.experts.size()));
  std::vector<QuantizedRecord> down = quantize_stage(
      context, wave.down,
      reduce_sums(context, wave.down, work.run_gate_up(y != nullptr ? &hidden : nullptr)));
  if (y != nullptr) {
    const PhaseTimer timer(context.times, "forward");
    add_down(inputs.layer, inputs.weights, inputs.batch, inputs.routing, wave.experts, hidden, *y);
  }
  return in_model_order(std::move(gate_up), std::move(down));
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
