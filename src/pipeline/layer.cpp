#include "pipeline/layer.h"

#include "aq/forward/attention.h"
#include "aq/forward/dispatch.h"
#include "aq/runtime/pieces.h"
#include "pipeline/experts.h"

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

/// A stage over all tokens: H of each task from its source, then quantize.
std::vector<QuantizedRecord> quantize_dense_stage(StageContext& context, const StagePlan& stage,
                                                  const Batch& batch,
                                                  const std::vector<RowSource>& sources) {
  std::vector<TaskCalibration> calibrations(stage.tasks.size());
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    if (!stage.tasks[i].needs_hessian) continue;
    const PhaseTimer timer(context.times, Phase::hessian);
    calibrations[i].partials = sum_all_tokens(context.solver, batch, sources[i]);
  }
  return quantize_stage(context, stage, reduce_sums(context, stage, std::move(calibrations)));
}

std::vector<std::int64_t> count_expert_tokens(Communicator& comm, const LayerSpec& layer,
                                              const Routing& routing) {
  std::vector<std::int64_t> counts = routed_tokens(layer, routing);
  if (!counts.empty()) comm.all_reduce_sum(counts);
  return counts;
}

/// The linears of one layer in the order in which the tokens meet them.
struct LayerPass {
  StageContext& context;
  const Model& model;
  const LayerSpec& layer;
  const LayerPlan& plan;
  const Batch& batch;
  const WaveObserver& before_wave;

  /// Quantizes each linear from the inputs that it gets when the tokens meet `weights`. x becomes
  /// the layer's output with them, unless `stops_early`: then nothing runs that no Hessian needs,
  /// and x is worth nothing afterwards.
  LayerResult run(const Weights& weights, Matrix& x, bool stops_early = false) {
    LayerResult result;
    quantize_attention(weights, x, result.records);
    Matrix normed;
    {
      const PhaseTimer timer(context.times, Phase::forward);
      normed = normalized(model, weights, layer.post_attention_norm, x, batch);
    }
    append(quantize_dense_stage(context, plan.stage(Stage::router), batch, {rows_of(normed)}),
           result.records);
    Routing routing;
    {
      const PhaseTimer timer(context.times, Phase::forward);
      routing = route_tokens(layer, weights, batch, normed);
    }
    result.expert_tokens = count_expert_tokens(context.comm, layer, routing);

    const std::vector<ExpertCalibration> calibrations =
        choose_tokens(context.settings, layer, result.expert_tokens);
    const ExpertInputs inputs{layer, batch, normed, routing, weights, result.expert_tokens};
    context.expert_owners.assign(result.expert_tokens.size(), kEverywhere);
    Matrix y;
    if (!stops_early) y = Matrix(x.rows, x.columns);
    for (const WavePlan& wave : plan.waves) {
      before_wave(wave.experts);
      append(quantize_wave(context, wave, inputs, calibrations, stops_early ? nullptr : &y),
             result.records);
    }
    if (!stops_early) add_matrix(y, x);
    return result;
  }

  void quantize_attention(const Weights& weights, Matrix& x,
                          std::vector<QuantizedRecord>& records) {
    const std::vector<float> norm = weights.vector(layer.input_norm, model.hidden);
    append(quantize_dense_stage(context, plan.stage(Stage::qkv), batch,
                                {normalized_rows(model, norm, x)}),
           records);
    Matrix core;
    {
      const Latents latents = quantize_latent(weights, x, records);
      const PhaseTimer timer(context.times, Phase::forward);
      core = attention_core(model, layer, weights, batch, x, latents);
    }
    append(quantize_dense_stage(context, plan.stage(Stage::o), batch, {rows_of(core)}), records);
    const PhaseTimer timer(context.times, Phase::forward);
    add_attention_output(layer, weights, batch, core, x);
  }

  /// q_b and kv_b from the latents; nothing for projected heads.
  Latents quantize_latent(const Weights& weights, const Matrix& x,
                          std::vector<QuantizedRecord>& records) {
    Latents latents;
    {
      const PhaseTimer timer(context.times, Phase::forward);
      latents = latents_of(model, layer, weights, batch, x);
    }
    std::vector<RowSource> sources;  // in the order of the stage's tasks
    if (layer.latent && layer.latent->q_a) sources.push_back(rows_of(latents.q));
    if (layer.latent) sources.push_back(rows_of(latents.kv));
    append(quantize_dense_stage(context, plan.stage(Stage::latent), batch, sources), records);
    return latents;
  }
};

}  // namespace

LayerResult quantize_layer(StageContext& context, const Model& model, const LayerSpec& layer,
                           const LayerPlan& plan, const Batch& batch, Matrix& x,
                           const WaveObserver& before_wave) {
  LayerPass pass{context, model, layer, plan, batch, before_wave};
  switch (context.settings.sequential) {
    case Sequential::stage:  // a linear runs right after it was quantized
      return pass.run(context.quantized, x);
    case Sequential::layer: {  // once as it was for the Hessians, once more quantized
      LayerResult result;
      {
        Matrix original = x;
        result = pass.run(context.original, original, true);
      }
      const PhaseTimer timer(context.times, Phase::forward);
      const ExpertHomes homes{context.comm, context.lanes, routed_waves(plan),
                              plan.waves.front().limits.rows,
                              [&](std::span<const std::int64_t>) { return context.expert_owners; }};
      forward_layer(model, layer, context.quantized, batch, x, context.dispatch ? &homes : nullptr);
      return result;
    }
    case Sequential::none:  // the original model runs
      return pass.run(context.original, x);
  }
  return {};
}

const Weights& forward_weights(const StageContext& context) {
  return context.settings.sequential == Sequential::none ? context.original : context.quantized;
}

std::vector<QuantizedRecord> quantize_head(StageContext& context, const Model& model,
                                           const StagePlan& plan, const Batch& batch,
                                           const Matrix& x) {
  if (!plan.quantizes()) return {};
  const std::vector<float> norm = context.original.vector(model.final_norm, model.hidden);
  return quantize_dense_stage(context, plan, batch, {normalized_rows(model, norm, x)});
}

namespace {

std::vector<QuantizedRecord> quantize_stage_from(const KeptHessians& kept, StageContext& context,
                                                 const StagePlan& stage) {
  std::vector<TaskSum> sums;
  {
    const PhaseTimer timer(context.times, Phase::read);
    sums = kept.sums(stage, context.comm.rank());
  }
  return quantize_stage(context, stage, std::move(sums));
}

}  // namespace

LayerResult quantize_layer_from(const KeptHessians& kept, StageContext& context,
                                const LayerPlan& plan, const WaveObserver& before_wave) {
  LayerResult result;
  for (const StagePlan& stage : plan.before_mlps)
    append(quantize_stage_from(kept, context, stage), result.records);
  for (const WavePlan& wave : plan.waves) {
    before_wave(wave.experts);
    std::vector<QuantizedRecord> gate_up = quantize_stage_from(kept, context, wave.gate_up);
    std::vector<QuantizedRecord> down = quantize_stage_from(kept, context, wave.down);
    append(in_model_order(std::move(gate_up), std::move(down)), result.records);
  }
  return result;
}

std::vector<QuantizedRecord> quantize_head_from(const KeptHessians& kept, StageContext& context,
                                                const StagePlan& plan) {
  return quantize_stage_from(kept, context, plan);
}

}  // namespace aq
