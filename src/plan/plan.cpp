#include "aq/plan/plan.h"

#include <algorithm>

#include "aq/core/text.h"
#include "plan/memory.h"
#include "plan/placement.h"

namespace aq {
namespace {

TaskPlan make_task(const Recipe& recipe, std::initializer_list<const LinearSpec*> linears) {
  TaskPlan task;
  for (const LinearSpec* linear : linears) {
    task.columns = linear->columns;
    task.expert = linear->expert;
    const Assignment assignment = resolve(recipe, *linear);
    task.needs_hessian = task.needs_hessian || assignment.method == Method::gptq;
    task.matrices.push_back({*linear, assignment, {}});
  }
  return task;
}

LayerSizes sizes_of(const Model& model, const LayerSpec& layer, const QuantizeSettings& settings,
                    double stored_bits) {
  const MlpSpec& mlp = layer.dense ? *layer.dense : layer.moe->experts.front();
  LayerSizes sizes;
  sizes.hidden = model.hidden;
  sizes.q_width = layer.q.rows;
  sizes.kv_width = layer.k.rows;
  sizes.mlp_width = mlp.gate.rows;
  sizes.experts = layer.dense ? 1 : layer.moe->routing.experts;
  sizes.top_k = layer.dense ? 1 : layer.moe->routing.top_k;
  sizes.mlp_weights = 3 * mlp.gate.rows * mlp.gate.columns;
  sizes.stored_bits = stored_bits;
  sizes.factor_squares = 1 + (settings.gptq.refine > 0 ? 1 : 0) +
                         (settings.gptq.act_order == ActOrder::fixed ? 0.5 : 0);
  sizes.two_passes = settings.sequential == Sequential::layer;
  sizes.all_tokens =
      layer.moe && (settings.expert_tokens == ExpertTokens::all ||
                    (settings.starved == Starved::all_tokens && settings.min_tokens > 0));
  return sizes;
}

/// The most experts a wave whose memory stays under the limit.
Index wave_size(const Model& model, const LayerSizes& sizes, const Workload& workload, int ranks,
                const PlanLimits& limits) {
  const auto total = [&](Index experts) {
    return estimate_memory(sizes, workload, ranks, limits.threads, experts).total();
  };
  if (limits.memory == 0) return sizes.experts;
  if (total(1) > limits.memory)
    throw Error(ErrorKind::policy, "plan the run", model.architecture,
                str("a wave of one expert needs ", bytes_text(total(1)), " a rank, the limit is ",
                    bytes_text(limits.memory)),
                str("raise --memory to ", ceil_div(total(1), Index{1} << 20),
                    "MiB, use more ranks, or fewer or shorter sequences"));
  Index least = 1, most = sizes.experts;
  while (least < most) {  // total() grows with the number of experts
    const Index middle = (least + most + 1) / 2;
    if (total(middle) <= limits.memory)
      least = middle;
    else
      most = middle - 1;
  }
  return least;
}

struct BitCount {
  double bits = 0, weights = 0;
};

LayerPlan plan_layer(const Recipe& recipe, const LayerSpec& layer, int ranks,
                     Index experts_per_wave) {
  LayerPlan plan;
  plan.index = layer.index;
  int rotation = static_cast<int>(layer.index % ranks);
  const auto place = [&](StagePlan& stage) {
    place_stage(stage, ranks, rotation);
    rotation = (rotation + 1) % ranks;
  };
  plan.qkv.tasks.push_back(make_task(recipe, {&layer.q, &layer.k, &layer.v}));
  plan.o.tasks.push_back(make_task(recipe, {&layer.o}));
  if (layer.moe) plan.router.tasks.push_back(make_task(recipe, {&layer.moe->router}));
  for (StagePlan* stage : {&plan.qkv, &plan.o, &plan.router}) place(*stage);
  const Index experts = layer.dense ? 1 : layer.moe->routing.experts;
  const Index waves = ceil_div(experts, experts_per_wave);
  for (Index w = 0; w < waves; ++w) {
    WavePlan wave{even_share(experts, waves, w), {}, {}};
    for (Index e = wave.experts.begin; e < wave.experts.end; ++e) {
      const MlpSpec& mlp =
          layer.dense ? *layer.dense : layer.moe->experts[static_cast<std::size_t>(e)];
      wave.gate_up.tasks.push_back(make_task(recipe, {&mlp.gate, &mlp.up}));
      wave.down.tasks.push_back(make_task(recipe, {&mlp.down}));
    }
    place(wave.gate_up);
    place(wave.down);
    plan.waves.push_back(std::move(wave));
  }
  return plan;
}

/// Adds what the stage quantizes to the plan's counts.
void count_stage(const StagePlan& stage, Plan& plan, BitCount& count) {
  Index tasks = 0;
  for (const TaskPlan& task : stage.tasks) {
    bool quantizes = false;
    for (const MatrixPlan& matrix : task.matrices) {
      ++plan.matrix_count;
      if (matrix.assignment.method == Method::copy) continue;
      quantizes = true;
      ++plan.quantized_count;
      const LinearSpec& linear = matrix.linear;
      count.bits +=
          static_cast<double>(stored_bits(matrix.assignment.scheme, linear.rows, linear.columns));
      count.weights += static_cast<double>(linear.rows * linear.columns);
    }
    if (quantizes) ++tasks;
  }
  if (tasks >= plan.ranks) plan.balance = std::min(plan.balance, stage.balance);
}

/// Stored bits a weight if every linear of the layers were stored as the recipe says.
double mean_expert_bits(const Recipe& recipe, const LayerSpec& layer) {
  const MlpSpec& mlp = layer.dense ? *layer.dense : layer.moe->experts.front();
  const Assignment assignment = resolve(recipe, mlp.gate);
  if (assignment.method == Method::copy) return 0;  // copies are read again when they are used
  return static_cast<double>(stored_bits(assignment.scheme, mlp.gate.rows, mlp.gate.columns)) /
         static_cast<double>(mlp.gate.rows * mlp.gate.columns);
}

}  // namespace

bool StagePlan::needs_hessian() const {
  return std::any_of(tasks.begin(), tasks.end(),
                     [](const TaskPlan& task) { return task.needs_hessian; });
}

bool StagePlan::quantizes() const {
  for (const TaskPlan& task : tasks)
    for (const MatrixPlan& matrix : task.matrices)
      if (matrix.assignment.method != Method::copy) return true;
  return false;
}

Plan make_plan(const Model& model, const Recipe& recipe, int ranks, const Workload& workload,
               const PlanLimits& limits) {
  Plan plan;
  plan.ranks = ranks;
  plan.lanes = workload.lanes;
  BitCount count;
  for (const LayerSpec& layer : model.layers) {
    const LayerSizes sizes =
        sizes_of(model, layer, recipe.settings, mean_expert_bits(recipe, layer));
    const Index experts = wave_size(model, sizes, workload, ranks, limits);
    const MemoryEstimate memory = estimate_memory(sizes, workload, ranks, limits.threads, experts);
    if (memory.total() > plan.memory.total()) plan.memory = memory;
    plan.layers.push_back(plan_layer(recipe, layer, ranks, experts));
    const LayerPlan& planned = plan.layers.back();
    for (const StagePlan* stage : {&planned.qkv, &planned.o, &planned.router})
      count_stage(*stage, plan, count);
    for (const WavePlan& wave : planned.waves)
      for (const StagePlan* stage : {&wave.gate_up, &wave.down}) count_stage(*stage, plan, count);
  }
  plan.head.tasks.push_back(make_task(recipe, {&model.head}));
  place_stage(plan.head, ranks, 0);
  count_stage(plan.head, plan, count);
  plan.mean_bits = count.weights > 0 ? count.bits / count.weights : 0;
  return plan;
}

}  // namespace aq
