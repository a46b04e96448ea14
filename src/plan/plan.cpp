#include "aq/plan/plan.h"

#include <algorithm>

#include "aq/core/text.h"
#include "plan/memory.h"
#include "plan/placement.h"

namespace aq {
namespace {

TaskPlan make_task(const Recipe& recipe, const std::vector<const LinearSpec*>& linears) {
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

Index weights_of(const LinearSpec& linear) {
  return linear.rows * linear.columns;
}

Index weights_of(const MlpSpec& mlp) {
  return weights_of(mlp.gate) + weights_of(mlp.up) + weights_of(mlp.down);
}

void add_attention_sizes(const LayerSpec& layer, LayerSizes& sizes) {
  const AttentionSpec& attention = layer.attention;
  sizes.core_width = attention.out_width();
  sizes.head_widths = attention.q_width() + attention.k_width() + attention.v_width();
  for (const LinearSpec* linear : layer.attention_inputs())
    sizes.attention_weights += weights_of(*linear);
  if (layer.latent) {
    const LatentHeads& latent = *layer.latent;
    sizes.head_widths += latent.kv_b.rows;
    sizes.latent_width = (latent.q_a ? latent.q_a->rows : 0) + latent.kv_a.rows;
    sizes.attention_weights += weights_of(latent.q) + weights_of(latent.kv_b);
  }
  sizes.attention_weights = std::max(sizes.attention_weights, weights_of(layer.o));
}

/// Sizes of a wave of experts like `mlp`, of which each token meets `top_k`.
LayerSizes sizes_of(const Model& model, const LayerSpec& layer, const MlpSpec& mlp, Index top_k,
                    const QuantizeSettings& settings, double stored_bits) {
  LayerSizes sizes;
  sizes.hidden = model.hidden;
  add_attention_sizes(layer, sizes);
  sizes.mlp_width = mlp.gate.rows;
  sizes.mlp_weights = weights_of(mlp);
  sizes.experts = layer.dense ? 1 : layer.moe->routing.experts;
  sizes.layer_weights = sizes.experts * weights_of(mlp_of(layer, 0));
  if (layer.moe && layer.moe->shared) sizes.layer_weights += weights_of(layer.moe->shared->mlp);
  sizes.top_k = top_k;
  sizes.stored_bits = stored_bits;
  sizes.factor_squares = 1 + (settings.gptq.refine > 0 ? 1 : 0) +
                         (settings.gptq.act_order == ActOrder::fixed ? 0.5 : 0);
  sizes.two_passes = settings.sequential == Sequential::layer;
  sizes.all_tokens =
      layer.moe && (settings.expert_tokens == ExpertTokens::all ||
                    (settings.starved == Starved::all_tokens && settings.min_tokens > 0));
  return sizes;
}

/// The most experts a wave, at most `wanted`, whose memory stays under the limit.
Index wave_size(const Model& model, const LayerSizes& sizes, Index wanted, const Workload& workload,
                int ranks, const PlanLimits& limits) {
  const auto total = [&](Index experts) {
    return estimate_memory(sizes, workload, ranks, limits.threads, experts).total();
  };
  if (limits.memory == 0) return wanted;
  if (total(1) > limits.memory)
    throw Error(ErrorKind::policy, "plan the run", model.architecture,
                str("a wave of one expert needs ", bytes_text(total(1)), " a rank, the limit is ",
                    bytes_text(limits.memory)),
                str("raise --memory to ", ceil_div(total(1), Index{1} << 20),
                    "MiB, use more ranks, or fewer or shorter sequences"));
  Index least = 1, most = wanted;
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

/// What plans the waves of one layer.
struct LayerPlanner {
  const Recipe& recipe;
  const LayerSpec& layer;
  int ranks;
  int rotation;

  void place(StagePlan& stage) {
    place_stage(stage, ranks, rotation);
    rotation = (rotation + 1) % ranks;
  }

  StagePlan stage(const std::vector<std::vector<const LinearSpec*>>& tasks) {
    StagePlan plan;
    for (const auto& linears : tasks) plan.tasks.push_back(make_task(recipe, linears));
    place(plan);
    return plan;
  }

  void plan_attention(LayerPlan& plan) {
    plan.qkv = stage({layer.attention_inputs()});
    if (layer.latent) {
      const LatentHeads& latent = *layer.latent;
      if (latent.q_a)
        plan.latent = stage({{&latent.q}, {&latent.kv_b}});
      else
        plan.latent = stage({{&latent.kv_b}});
    }
    plan.o = stage({{&layer.o}});
    if (!layer.moe) return;
    std::vector<const LinearSpec*> routers{&layer.moe->router};
    if (layer.moe->shared && layer.moe->shared->router)
      routers.push_back(&*layer.moe->shared->router);
    plan.router = stage({routers});
  }

  WavePlan wave(Range experts) {
    std::vector<std::vector<const LinearSpec*>> gate_up, down;
    for (Index e = experts.begin; e < experts.end; ++e) {
      const MlpSpec& mlp = mlp_of(layer, e);
      gate_up.push_back({&mlp.gate, &mlp.up});
      down.push_back({&mlp.down});
    }
    WavePlan plan{experts, stage(gate_up), {}};
    plan.down = stage(down);
    return plan;
  }
};

LayerPlan plan_layer(const Recipe& recipe, const LayerSpec& layer, int ranks,
                     Index experts_per_wave) {
  LayerPlan plan;
  plan.index = layer.index;
  LayerPlanner planner{recipe, layer, ranks, static_cast<int>(layer.index % ranks)};
  planner.plan_attention(plan);
  const Index experts = layer.dense ? 1 : layer.moe->routing.experts;
  const Index waves = ceil_div(experts, experts_per_wave);
  for (Index w = 0; w < waves; ++w)
    plan.waves.push_back(planner.wave(even_share(experts, waves, w)));
  if (layer.moe && layer.moe->shared) plan.waves.push_back(planner.wave({experts, experts + 1}));
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
  const MlpSpec& mlp = mlp_of(layer, 0);
  const Assignment assignment = resolve(recipe, mlp.gate);
  if (assignment.method == Method::copy) return 0;  // copies are read again when they are used
  return static_cast<double>(stored_bits(assignment.scheme, mlp.gate.rows, mlp.gate.columns)) /
         static_cast<double>(mlp.gate.rows * mlp.gate.columns);
}

/// Experts a wave of the layer; `most` becomes the layer's memory where that is more.
Index plan_memory(const Model& model, const LayerSpec& layer, const Recipe& recipe, int ranks,
                  const Workload& workload, const PlanLimits& limits, MemoryEstimate& most) {
  const double bits = mean_expert_bits(recipe, layer);
  /// The most experts like `mlp` that a wave can have.
  const auto fit = [&](const MlpSpec& mlp, Index top_k, Index wanted) {
    const LayerSizes sizes = sizes_of(model, layer, mlp, top_k, recipe.settings, bits);
    const Index experts = wave_size(model, sizes, wanted, workload, ranks, limits);
    const MemoryEstimate memory = estimate_memory(sizes, workload, ranks, limits.threads, experts);
    if (memory.total() > most.total()) most = memory;
    return experts;
  };
  if (layer.moe && layer.moe->shared) fit(layer.moe->shared->mlp, 1, 1);
  if (layer.dense) return fit(*layer.dense, 1, 1);
  const RouterSpec& routing = layer.moe->routing;
  return fit(layer.moe->experts.front(), routing.top_k, routing.experts);
}

}  // namespace

std::vector<const StagePlan*> LayerPlan::stages() const {
  std::vector<const StagePlan*> all{&qkv, &latent, &o, &router};
  for (const WavePlan& wave : waves) {
    all.push_back(&wave.gate_up);
    all.push_back(&wave.down);
  }
  return all;
}

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
    const Index experts = plan_memory(model, layer, recipe, ranks, workload, limits, plan.memory);
    plan.layers.push_back(plan_layer(recipe, layer, ranks, experts));
    for (const StagePlan* stage : plan.layers.back().stages()) count_stage(*stage, plan, count);
  }
  plan.head.tasks.push_back(make_task(recipe, {&model.head}));
  place_stage(plan.head, ranks, 0);
  count_stage(plan.head, plan, count);
  plan.mean_bits = count.weights > 0 ? count.bits / count.weights : 0;
  return plan;
}

}  // namespace aq
