#include "pipeline/layer.h"

#include "aq/core/parallel.h"
#include "aq/runtime/pieces.h"

namespace aq {
namespace {

void append(std::vector<QuantizedRecord> records, std::vector<QuantizedRecord>& all) {
  for (QuantizedRecord& record : records) all.push_back(std::move(record));
}

/// Rows of a matrix as they are.
RowSource rows_of(const Matrix& matrix) {
  return
      [&matrix](Range rows, Matrix&) { return matrix.view().slice_rows(rows.begin, rows.size()); };
}

/// norm(x), computed where it is needed.
RowSource normalized_rows(const Model& model, const std::vector<float>& norm, const Matrix& x) {
  return [&](Range rows, Matrix& scratch) -> MatrixView<const float> {
    scratch = Matrix(rows.size(), x.columns);
    runtime::rms_norm(x.view().slice_rows(rows.begin, rows.size()), norm, model.norm_eps,
                      scratch.view());
    return scratch.view();
  };
}

/// A stage of one task over all tokens: H from `source`, then quantize.
std::vector<QuantizedRecord> quantize_dense_stage(StageContext& context, const StagePlan& stage,
                                                  const Batch& batch, const RowSource& source) {
  std::vector<TaskCalibration> calibrations(stage.tasks.size());
  if (stage.needs_hessian()) {
    const PhaseTimer timer(context.times, "hessian");
    calibrations.front().partials = sum_all_tokens(batch, stage.tasks.front().columns, source);
  }
  return quantize_stage(context, stage, std::move(calibrations));
}

/// The tokens that calibrate one expert.
struct CalibrationTokens {
  const TokenList* list = nullptr;  ///< null: none, the expert is rounded
  bool is_routed = true;            ///< the list is the one that the forward pass uses
  std::string starved = "none";
};

/// Each expert's routed tokens, or what the recipe says for experts with too few of them.
std::vector<CalibrationTokens> choose_tokens(const QuantizeSettings& settings,
                                             const Routing& routing, const TokenList& every,
                                             std::span<const std::int64_t> expert_tokens) {
  std::vector<CalibrationTokens> chosen;
  for (std::size_t e = 0; e < routing.experts.size(); ++e) {
    CalibrationTokens tokens{&routing.experts[e], true, "none"};
    if (!expert_tokens.empty() && expert_tokens[e] < settings.min_tokens) {
      if (settings.starved == Starved::all_tokens)
        tokens = {&every, false, "starved_all_tokens"};
      else
        tokens = {nullptr, false, "starved_rtn"};
    }
    chosen.push_back(tokens);
  }
  return chosen;
}

std::vector<std::int64_t> count_expert_tokens(Communicator& comm, const LayerSpec& layer,
                                              const Routing& routing) {
  if (layer.dense) return {};
  std::vector<std::int64_t> counts;
  for (const TokenList& list : routing.experts) counts.push_back(list.size());
  comm.all_reduce_sum(counts);
  return counts;
}

/// The MLP half of a layer, wave by wave.
class MlpQuantizer {
 public:
  MlpQuantizer(StageContext& context, const LayerSpec& layer, const Batch& batch,
               const Matrix& normed, const Routing& routing,
               std::span<const CalibrationTokens> tokens)
      : context_(context),
        layer_(layer),
        batch_(batch),
        normed_(normed),
        routing_(routing),
        tokens_(tokens) {}

  /// Quantizes gate and up, then down, of the wave's experts and adds their outputs to y.
  std::vector<QuantizedRecord> run(const WavePlan& wave, Matrix& y) {
    std::vector<QuantizedRecord> gate_up =
        quantize_stage(context_, wave.gate_up, sum_gate_up(wave));
    std::vector<Matrix> hidden(static_cast<std::size_t>(wave.experts.size()));
    std::vector<QuantizedRecord> down =
        quantize_stage(context_, wave.down, run_gate_up(wave, hidden));
    const PhaseTimer timer(context_.times, "forward");
    add_down(layer_, context_.weights, batch_, routing_, wave.experts, hidden, y);
    return in_model_order(std::move(gate_up), std::move(down));
  }

 private:
  const CalibrationTokens& tokens(const WavePlan& wave, Index i) const {
    return tokens_[static_cast<std::size_t>(wave.experts.begin + i)];
  }

  std::vector<TaskCalibration> sum_gate_up(const WavePlan& wave) {
    const PhaseTimer timer(context_.times, "hessian");
    std::vector<TaskCalibration> calibrations(wave.gate_up.tasks.size());
    parallel_for(wave.experts.size(), [&](Index i) {
      TaskCalibration& calibration = calibrations[static_cast<std::size_t>(i)];
      const TaskPlan& task = wave.gate_up.tasks[static_cast<std::size_t>(i)];
      const CalibrationTokens& used = tokens(wave, i);
      calibration.starved = used.starved;
      if (!task.needs_hessian || used.list == nullptr) return;
      calibration.partials =
          sum_routed_tokens(batch_, *used.list, context_.settings.routing_exponent, task.columns,
                            [&](Index lane, Matrix&) {
                              return LaneRows{normed_.view(), used.list->rows_of_lane(lane)};
                            });
    });
    return calibrations;
  }

  /// Runs gate and up of the wave's experts and sums the Hessians of down over what comes out.
  std::vector<TaskCalibration> run_gate_up(const WavePlan& wave, std::vector<Matrix>& hidden) {
    const PhaseTimer timer(context_.times, "forward");
    std::vector<TaskCalibration> calibrations(wave.down.tasks.size());
    parallel_for(wave.experts.size(), [&](Index i) {
      const Index expert = wave.experts.begin + i;
      const TokenList& list = routing_.experts[static_cast<std::size_t>(expert)];
      const CalibrationTokens& used = tokens(wave, i);
      TaskCalibration& calibration = calibrations[static_cast<std::size_t>(i)];
      calibration.starved = used.starved;
      const TaskPlan& task = wave.down.tasks[static_cast<std::size_t>(i)];
      const bool sums = task.needs_hessian && used.list != nullptr;
      if (list.size() == 0 && !(sums && used.list->size() > 0)) return;
      const GateUp weights = gate_up_weights(mlp_of(layer_, expert), context_.weights);
      Matrix& out = hidden[static_cast<std::size_t>(i)];
      out = hidden_of_list(weights, normed_, list, batch_);
      if (!sums) return;
      calibration.partials =
          sum_routed_tokens(batch_, *used.list, context_.settings.routing_exponent, task.columns,
                            [&](Index lane, Matrix& scratch) -> LaneRows {
                              const Range rows = used.list->lane(lane);
                              if (used.is_routed)
                                return {out.view().slice_rows(rows.begin, rows.size()), {}};
                              scratch = hidden_of(weights, normed_, used.list->rows_of_lane(lane));
                              return {scratch.view(), {}};
                            });
    });
    return calibrations;
  }

  /// gate, up, down of each expert in turn.
  static std::vector<QuantizedRecord> in_model_order(std::vector<QuantizedRecord> gate_up,
                                                     std::vector<QuantizedRecord> down) {
    std::vector<QuantizedRecord> all;
    std::size_t next = 0;
    for (QuantizedRecord& record : down) {
      while (next < gate_up.size() && gate_up[next].row.stats.expert <= record.row.stats.expert)
        all.push_back(std::move(gate_up[next++]));
      all.push_back(std::move(record));
    }
    while (next < gate_up.size()) all.push_back(std::move(gate_up[next++]));
    return all;
  }

  StageContext& context_;
  const LayerSpec& layer_;
  const Batch& batch_;
  const Matrix& normed_;
  const Routing& routing_;
  std::span<const CalibrationTokens> tokens_;
};

}  // namespace

LayerResult quantize_layer(StageContext& context, const Model& model, const LayerSpec& layer,
                           const LayerPlan& plan, const Batch& batch, Matrix& x,
                           const WaveObserver& before_wave) {
  Weights& weights = context.weights;
  LayerResult result;
  const auto forward = [&] { return PhaseTimer(context.times, "forward"); };

  const std::vector<float> input_norm = weights.vector(layer.input_norm, model.hidden);
  append(quantize_dense_stage(context, plan.qkv, batch, normalized_rows(model, input_norm, x)),
         result.records);
  {
    Matrix core;
    {
      const PhaseTimer timer = forward();
      core = attention_core(model, layer, weights, batch, x);
    }
    append(quantize_dense_stage(context, plan.o, batch, rows_of(core)), result.records);
    const PhaseTimer timer = forward();
    add_attention_output(layer, weights, batch, core, x);
  }

  Matrix normed;
  {
    const PhaseTimer timer = forward();
    normed = normalized(model, weights, layer.post_attention_norm, x, batch);
  }
  append(quantize_dense_stage(context, plan.router, batch, rows_of(normed)), result.records);
  Routing routing;
  {
    const PhaseTimer timer = forward();
    routing = route_tokens(layer, weights, batch, normed);
  }
  result.expert_tokens = count_expert_tokens(context.comm, layer, routing);

  const TokenList every = all_tokens(batch);
  const std::vector<CalibrationTokens> tokens =
      choose_tokens(context.settings, routing, every, result.expert_tokens);
  MlpQuantizer mlp(context, layer, batch, normed, routing, tokens);
  Matrix y(x.rows, x.columns);
  for (const WavePlan& wave : plan.waves) {
    before_wave(wave.experts);
    append(mlp.run(wave, y), result.records);
  }
  add_matrix(y, x);
  return result;
}

std::vector<QuantizedRecord> quantize_head(StageContext& context, const Model& model,
                                           const StagePlan& plan, const Batch& batch,
                                           const Matrix& x) {
  if (!plan.quantizes()) return {};
  const std::vector<float> norm = context.weights.vector(model.final_norm, model.hidden);
  return quantize_dense_stage(context, plan, batch, normalized_rows(model, norm, x));
}

}  // namespace aq
