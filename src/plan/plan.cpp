#include "aq/plan/plan.h"

#include <algorithm>
#include <span>

#include "aq/core/text.h"
#include "aq/plan/dispatch.h"
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

/// What a task takes; each matrix as the recipe says.
TaskShape shape_of(const Recipe& recipe, const std::vector<const LinearSpec*>& linears) {
  TaskShape shape;
  for (const LinearSpec* linear : linears) {
    shape.columns = linear->columns;
    shape.weights += weights_of(*linear);
    const Assignment assignment = resolve(recipe, *linear);
    if (assignment.method == Method::copy) continue;
    shape.rows += linear->rows;
    shape.packed_bytes += packed_bytes(assignment.scheme, linear->rows, linear->columns);
    shape.has_hessian = shape.has_hessian || assignment.method == Method::gptq;
  }
  return shape;
}

void add_attention_sizes(const Recipe& recipe, const LayerSpec& layer, LayerSizes& sizes) {
  const AttentionSpec& attention = layer.attention;
  sizes.core_width = attention.out_width();
  sizes.head_widths = attention.q_width() + attention.k_width() + attention.v_width();
  sizes.qkv = shape_of(recipe, layer.attention_inputs());
  sizes.o = shape_of(recipe, {&layer.o});
  sizes.attention_weights = sizes.qkv.weights;
  sizes.layer_packed_bytes += sizes.qkv.packed_bytes + sizes.o.packed_bytes;
  if (!layer.latent) return;
  const LatentHeads& latent = *layer.latent;
  sizes.head_widths += latent.kv_b.rows;
  sizes.latent_width = (latent.q_a ? latent.q_a->rows : 0) + latent.kv_a.rows;
  sizes.attention_weights = weights_of(latent.q) + weights_of(latent.kv_b);
  if (latent.q_a) sizes.latent.push_back(shape_of(recipe, {&latent.q}));
  sizes.latent.push_back(shape_of(recipe, {&latent.kv_b}));
  for (const TaskShape& task : sizes.latent) sizes.layer_packed_bytes += task.packed_bytes;
}

/// Packed results of all MLPs of the layer.
Index packed_mlps(const Recipe& recipe, const LayerSpec& layer) {
  const auto packed = [&](const MlpSpec& mlp) {
    return shape_of(recipe, {&mlp.gate, &mlp.up}).packed_bytes +
           shape_of(recipe, {&mlp.down}).packed_bytes;
  };
  if (layer.dense) return packed(*layer.dense);
  Index bytes = 0;
  for (const MlpSpec& expert : layer.moe->experts) bytes += packed(expert);
  return bytes + (layer.moe->shared ? packed(layer.moe->shared->mlp) : 0);
}

/// The larger of both in every size.
void raise(TaskShape& shape, const TaskShape& other) {
  shape.rows = std::max(shape.rows, other.rows);
  shape.packed_bytes = std::max(shape.packed_bytes, other.packed_bytes);
  shape.has_hessian = shape.has_hessian || other.has_hessian;
}

/// Sizes of a layer without its experts.
LayerSizes sizes_of(const Model& model, const LayerSpec& layer, const Recipe& recipe) {
  const QuantizeSettings& settings = recipe.settings;
  LayerSizes sizes;
  sizes.hidden = model.hidden;
  sizes.vocabulary = model.vocabulary;
  add_attention_sizes(recipe, layer, sizes);
  sizes.layer_packed_bytes += packed_mlps(recipe, layer);
  sizes.experts = layer.dense ? 1 : layer.moe->routing.experts;
  sizes.refines = settings.gptq.refine > 0;
  sizes.reorders = settings.gptq.act_order == ActOrder::fixed;
  sizes.two_passes = settings.sequential == Sequential::layer;
  sizes.all_tokens =
      layer.moe && (settings.expert_tokens == ExpertTokens::all ||
                    (settings.starved == Starved::all_tokens && settings.min_tokens > 0));
  return sizes;
}

/// Sets the sizes of a wave of `mlps`, of which each token meets `top_k`: those of the largest.
void set_experts(LayerSizes& sizes, const Recipe& recipe, std::span<const MlpSpec> mlps,
                 Index top_k) {
  sizes.top_k = top_k;
  sizes.mlp_width = mlps.front().gate.rows;
  sizes.gate_up = shape_of(recipe, {&mlps.front().gate, &mlps.front().up});
  sizes.down = shape_of(recipe, {&mlps.front().down});
  for (const MlpSpec& mlp : mlps.subspan(1)) {
    raise(sizes.gate_up, shape_of(recipe, {&mlp.gate, &mlp.up}));
    raise(sizes.down, shape_of(recipe, {&mlp.down}));
  }
}

/// The most experts a wave, at most `wanted`, whose memory stays under `limit`; 1 when none does.
Index wave_size(const LayerSizes& sizes, Index wanted, const RankShare& share, Index limit) {
  if (limit == 0) return wanted;
  Index least = 1, most = wanted;
  while (least < most) {  // memory grows with the number of experts
    const Index middle = (least + most + 1) / 2;
    const WaveShape shape = wave_shape(sizes, share, middle);
    if (largest(layer_memory(sizes, share, shape)).memory.total() <= limit)
      least = middle;
    else
      most = middle - 1;
  }
  return least;
}

void check_limit(const Model& model, const Plan& plan, Index limit) {
  if (limit == 0 || plan.memory.total() <= limit) return;
  throw Error(ErrorKind::policy, "plan the run", model.architecture,
              str("a wave of one expert needs ", bytes_text(plan.least_bytes),
                  " a rank, the limit is ", bytes_text(limit)),
              str("raise --memory to ", ceil_div(plan.least_bytes, Index{1} << 20),
                  "MiB, use more ranks, or fewer or shorter sequences"));
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
    place_stage(stage, ranks, rotation, recipe.settings.gptq.refine);
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

/// The wave's experts at the owners that they would have if all had as many tokens.
void place_dispatched(WavePlan& wave, Index experts, std::int64_t tokens, int ranks, int sweeps) {
  const auto count = static_cast<std::size_t>(experts);
  const WaveSplit split = split_wave(wave, std::vector<std::int64_t>(count, tokens),
                                     std::vector<bool>(count, false), ranks, sweeps);
  const auto put = [&](const ExpertTasks& tasks) {
    for (std::size_t i = 0; i < tasks.experts.size(); ++i) {
      const auto at = static_cast<std::size_t>(tasks.experts[i] - wave.experts.begin);
      wave.gate_up.tasks[at] = tasks.gate_up.tasks[i];
      wave.down.tasks[at] = tasks.down.tasks[i];
    }
  };
  put(split.dispatched);
  for (const ExpertTasks& tasks : split.reduced) put(tasks);
  for (StagePlan* stage : {&wave.gate_up, &wave.down})
    stage->balance = placed_balance(*stage, ranks);
}

LayerPlan plan_layer(const Recipe& recipe, const LayerSpec& layer, int ranks,
                     const WaveShape& shape, Index all_tokens) {
  LayerPlan plan;
  plan.index = layer.index;
  LayerPlanner planner{recipe, layer, ranks, static_cast<int>(layer.index % ranks)};
  planner.plan_attention(plan);
  const Index experts = layer.dense ? 1 : layer.moe->routing.experts;
  const Index waves = ceil_div(experts, shape.experts);
  for (Index w = 0; w < waves; ++w) {
    WavePlan wave = planner.wave(even_share(experts, waves, w));
    wave.limits = shape.limits;
    if (shape.limits.reduced > 0)
      place_dispatched(wave, experts, all_tokens * layer.moe->routing.top_k / experts, ranks,
                       recipe.settings.gptq.refine);
    plan.waves.push_back(std::move(wave));
  }
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

/// Raises what is there of each stage and phase; new ones go behind.
void raise(std::vector<MemoryMoment>& all, const std::vector<MemoryMoment>& moments) {
  for (const MemoryMoment& moment : moments) {
    const auto same = std::find_if(all.begin(), all.end(), [&](const MemoryMoment& other) {
      return other.stage == moment.stage && other.phase == moment.phase;
    });
    if (same == all.end())
      all.push_back(moment);
    else if (moment.memory.total() > same->memory.total())
      *same = moment;
  }
}

/// The waves of the layer; the plan's memory becomes the layer's where that is more.
WaveShape plan_memory(const Model& model, const LayerSpec& layer, const Recipe& recipe,
                      const RankShare& share, const PlanLimits& limits, Plan& plan) {
  LayerSizes sizes = sizes_of(model, layer, recipe);
  /// The most experts like `mlps` that a wave can have.
  const auto fit = [&](std::span<const MlpSpec> mlps, Index top_k) {
    set_experts(sizes, recipe, mlps, top_k);
    const Index all = std::ssize(mlps);
    const auto total = [&](Index count) {
      return largest(layer_memory(sizes, share, wave_shape(sizes, share, count))).memory.total();
    };
    const WaveShape shape = wave_shape(sizes, share, wave_size(sizes, all, share, limits.memory));
    plan.one_wave_bytes = std::max(plan.one_wave_bytes, total(all));
    plan.least_bytes = std::max(plan.least_bytes, total(1));
    raise(plan.moments, layer_memory(sizes, share, shape));
    return shape;
  };
  if (layer.moe && layer.moe->shared) fit({&layer.moe->shared->mlp, 1}, 1);
  if (layer.dense) return fit({&*layer.dense, 1}, 1);
  sizes.routed = true;
  return fit(layer.moe->experts, layer.moe->routing.top_k);
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

bool is_routed(const LayerSpec& layer, const WavePlan& wave) {
  return layer.moe && wave.experts.begin < layer.moe->routing.experts;
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

Workload make_workload(const Model& model, Index sequences, Index length,
                       const WorkloadChoice& choice, const std::string& object) {
  constexpr std::string_view kOperation = "read the calibration tokens";
  if (choice.samples > sequences)
    throw Error(
        ErrorKind::input, kOperation, object,
        str("--nsamples ", choice.samples, ", but the file holds ", sequences, " sequences"));
  Workload workload;
  workload.lanes.sequences = choice.samples > 0 ? choice.samples : sequences;
  workload.sequence_length =
      choice.sequence_length > 0 ? std::min(choice.sequence_length, length) : length;
  if (workload.sequence_length > model.max_positions)
    throw Error(ErrorKind::input, kOperation, object,
                str("sequences of ", workload.sequence_length, " tokens, but the model takes ",
                    model.max_positions),
                "use --seqlen");
  const Index lanes =
      choice.lanes > 0 ? choice.lanes : default_lane_count(workload.lanes.sequences);
  if ((lanes & (lanes - 1)) != 0 || lanes > workload.lanes.sequences)
    throw Error(ErrorKind::usage, "deal the sequences to lanes", "--lanes",
                str(lanes, " is not a power of two of at most ", workload.lanes.sequences,
                    " (the number of sequences)"));
  workload.lanes.lanes = lanes;
  return workload;
}

Plan make_plan(const Model& model, const Recipe& recipe, int ranks, const Workload& workload,
               const PlanLimits& limits) {
  Plan plan;
  plan.ranks = ranks;
  plan.dispatch = limits.dispatch;
  plan.lanes = workload.lanes;
  BitCount count;
  const RankShare share = rank_share(workload, ranks, limits);
  for (const LayerSpec& layer : model.layers) {
    const WaveShape shape = plan_memory(model, layer, recipe, share, limits, plan);
    plan.layers.push_back(plan_layer(recipe, layer, ranks, shape, share.all_tokens));
    for (const StagePlan* stage : plan.layers.back().stages()) count_stage(*stage, plan, count);
  }
  plan.head.tasks.push_back(make_task(recipe, {&model.head}));
  place_stage(plan.head, ranks, 0, recipe.settings.gptq.refine);
  count_stage(plan.head, plan, count);
  plan.memory = largest(plan.moments).memory;
  check_limit(model, plan, limits.memory);
  plan.mean_bits = count.weights > 0 ? count.bits / count.weights : 0;
  return plan;
}

}  // namespace aq
