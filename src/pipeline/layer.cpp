#include "pipeline/layer.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "aq/forward/output_sums.h"
#include "pipeline/experts.h"
#include "pipeline/original_stream.h"

namespace aq {
namespace {

void append(std::vector<QuantizedRecord> records, std::vector<QuantizedRecord>& all) {
  for (QuantizedRecord& record : records) all.push_back(std::move(record));
}

/// A stage over all tokens: H of each task from its input, then quantize. `lacks`: of the inputs
/// beside the original stream; none without it. `outputs`: of tasks with output factors; or none.
std::vector<QuantizedRecord> quantize_inputs(StageContext& context, const StagePlan& stage,
                                             const Batch& batch,
                                             const std::vector<LinearInput>& inputs,
                                             std::vector<Lack> lacks,
                                             std::vector<LanePartials> outputs = {}) {
  AQ_CHECK(lacks.empty() || lacks.size() == inputs.size(), lacks.size(), " lacks of ",
           inputs.size(), " inputs");
  lacks.resize(inputs.size());
  std::vector<TaskCalibration> calibrations(stage.tasks.size());
  for (std::size_t i = 0; i < stage.tasks.size(); ++i)
    if (stage.tasks[i].needs_hessian)
      calibrations[i].partials =
          timed(context.times, Phase::hessian, std::string(stage_name(stage.stage)),
                [&] { return sum_tokens(context.solver, batch, inputs[i], lacks[i]); });
  for (std::size_t i = 0; i < outputs.size(); ++i)
    calibrations[i].partials.output_factor = std::move(outputs[i]);
  return quantize_stage(context, stage, reduce_sums(context, stage, std::move(calibrations)));
}

/// Output factors of tasks, stage by stage.
using StageOutputs = std::map<Stage, std::vector<LanePartials>>;

/// All of a layer in one pass, before the first of its matrices that make heads is quantized.
/// @param latents  of x; null: they are made
StageOutputs sum_outputs(StageContext& context, const LayerPlan& plan, const DecoderLayer& layer,
                         const Tensor& x, const Latents* latents) {
  const std::vector<const LinearSpec*> linears = qkv_linears(layer.spec);
  std::vector<OutputPlace> places(linears.size());
  std::vector<Index> rows;
  for (const Stage stage : {Stage::qkv, Stage::latent})
    for (const TaskPlan& task : plan.stage(stage).tasks) {
      Index next = 0;
      for (const MatrixPlan& matrix : task.matrices)
        for (std::size_t i = 0; i < linears.size() && matrix.coupled; ++i)
          if (linears[i]->name == matrix.linear.name)
            places[i] = {std::ssize(rows), std::exchange(next, next + matrix.linear.rows)};
      rows.push_back(task.output_rows);
    }
  std::vector<LanePartials> sums = timed(context.times, Phase::hessian, "output factors", [&] {
    const Latents made = latents != nullptr ? Latents{} : layer.latents(x);
    return sum_outputs(layer, x, latents != nullptr ? *latents : made, places, rows);
  });
  StageOutputs all;
  auto next = std::make_move_iterator(sums.begin());
  for (const Stage stage : {Stage::qkv, Stage::latent}) {
    const auto end = next + std::ssize(plan.stage(stage).tasks);
    all[stage].assign(next, end);
    next = end;
  }
  return all;
}

std::vector<std::int64_t> count_expert_tokens(Communicator& comm, const LayerSpec& layer,
                                              const Routing& routing) {
  std::vector<std::int64_t> counts = routed_tokens(layer, routing);
  if (!counts.empty()) comm.all_reduce_sum(counts);
  return counts;
}

/// Quantizes each linear of a layer from the input that it gets when the tokens meet the layer's
/// weights. x becomes its output with them, unless `sums_only`: then nothing runs that no Hessian
/// needs, and x is worth nothing afterwards.
LayerResult quantize_linears(StageContext& context, const DecoderLayer& layer,
                             const LayerPlan& plan, Tensor& x, OriginalStream& original,
                             bool sums_only, const WaveObserver& before_wave) {
  LayerResult result;
  const auto quantize = [&](Stage stage, const std::vector<LinearInput>& inputs,
                            std::vector<Lack> lacks, std::vector<LanePartials> outputs = {}) {
    append(quantize_inputs(context, plan.stage(stage), layer.batch, inputs, std::move(lacks),
                           std::move(outputs)),
           result.records);
  };
  const auto forward = [&](const char* what, const auto& work) {
    return timed(context.times, Phase::forward, what, work);
  };
  StageOutputs outputs;
  if (plan.stage(Stage::qkv).has_output_factors())
    outputs = sum_outputs(context, plan, layer, x, nullptr);
  quantize(Stage::qkv, {layer.attention_input(x)}, original.attention(),
           std::move(outputs[Stage::qkv]));
  Latents latents = forward("latents", [&] { return layer.latents(x); });
  if (outputs[Stage::latent].empty() && plan.stage(Stage::latent).has_output_factors())
    outputs = sum_outputs(context, plan, layer, x, &latents);
  quantize(Stage::latent, layer.latent_inputs(latents), original.latents(),
           std::move(outputs[Stage::latent]));
  Tensor core = forward("attention", [&] { return layer.attention_core(x, std::move(latents)); });
  quantize(Stage::o, {LinearInput{core}}, original.output(x));
  forward("attention output", [&] { layer.add_attention_output(std::move(core), x); });
  const Tensor normed = forward("norm", [&] { return layer.mlp_input(x); });
  quantize(Stage::router, {LinearInput{normed}}, original.router());
  const Routing routing = forward("routing", [&] { return layer.route(normed); });
  result.expert_tokens = count_expert_tokens(context.comm, layer.spec, routing);
  const std::vector<ExpertCalibration> calibrations =
      choose_tokens(context.settings, layer.spec, result.expert_tokens);
  const Drift* drift = original.mlps(x, normed, routing, calibrations);
  result.placement =
      place_experts(plan, result.expert_tokens, staying(calibrations), context.comm.size());

  Tensor y;
  if (!sums_only) y = Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
  ExpertPass pass = layer.experts(normed, routing);
  pass.drift = drift;
  for (const WavePlan& wave : plan.waves) {
    before_wave(wave.experts);
    append(quantize_wave(context, wave, pass, result.expert_tokens, calibrations,
                         sums_only ? nullptr : &y),
           result.records);
  }
  if (!sums_only) add_to_stream(y, x);
  return result;
}

std::vector<QuantizedRecord> quantize_kept(const KeptHessians& kept, StageContext& context,
                                           const StagePlan& stage) {
  return quantize_stage(context, stage, timed(context.times, Phase::read, "kept Hessians", [&] {
                          return kept.sums(stage, context.comm.rank());
                        }));
}

}  // namespace

LayerResult quantize_layer(StageContext& context, const Model& model, const LayerSpec& spec,
                           const LayerPlan& plan, const Batch& batch, Streams& streams,
                           const WaveObserver& before_wave) {
  Tensor& x = streams.own;
  const DecoderLayer original{model, spec, context.original, batch};
  const DecoderLayer quantized{model, spec, context.quantized, batch};
  OriginalStream beside(context, original, plan,
                        context.settings.runs_original() ? &streams.original : nullptr);
  switch (context.settings.sequential) {
    case Sequential::stage:  // a linear runs right after it was quantized
      return quantize_linears(context, quantized, plan, x, beside, false, before_wave);
    case Sequential::layer: {  // once as it was for the Hessians, once more quantized
      Tensor scratch = x.clone(Storage::offload);
      LayerResult result =
          quantize_linears(context, original, plan, scratch, beside, true, before_wave);
      scratch = {};
      const DispatchedRun dispatched{
          context.transport, context.lanes, plan,
          [&](std::span<const std::int64_t>) { return result.placement; }};
      timed(context.times, Phase::forward, "the quantized layer",
            [&] { quantized.run(x, context.dispatch ? &dispatched : nullptr); });
      return result;
    }
    case Sequential::none:  // the original model runs
      return quantize_linears(context, original, plan, x, beside, false, before_wave);
  }
  return {};
}

const Weights& forward_weights(const StageContext& context) {
  return context.settings.sequential == Sequential::none ? context.original : context.quantized;
}

std::vector<QuantizedRecord> quantize_head(StageContext& context, const Model& model,
                                           const StagePlan& plan, const Batch& batch,
                                           const Streams& streams) {
  if (!plan.quantizes()) return {};
  const RmsNorm norm(model, context.original, model.final_norm);
  std::vector<Lack> lacks;
  if (context.settings.runs_original()) lacks.push_back(input_lack({streams.original, norm}));
  return quantize_inputs(context, plan, batch, {{streams.own, norm}}, std::move(lacks));
}

LayerResult quantize_layer_from(const KeptHessians& kept, StageContext& context,
                                const LayerPlan& plan, const WaveObserver& before_wave) {
  LayerResult result;
  for (const StagePlan& stage : plan.before_mlps)
    append(quantize_kept(kept, context, stage), result.records);
  for (const WavePlan& wave : plan.waves) {
    before_wave(wave.experts);
    std::vector<QuantizedRecord> gate_up = quantize_kept(kept, context, wave.gate_up);
    std::vector<QuantizedRecord> down = quantize_kept(kept, context, wave.down);
    append(in_model_order(std::move(gate_up), std::move(down)), result.records);
  }
  return result;
}

std::vector<QuantizedRecord> quantize_head_from(const KeptHessians& kept, StageContext& context,
                                                const StagePlan& plan) {
  return quantize_kept(kept, context, plan);
}

}  // namespace aq
