#include "aq/plan/plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "aq/core/text.h"
#include "aq/plan/dispatch.h"
#include "plan/layer_sizes.h"
#include "plan/memory.h"
#include "plan/placement.h"
#include "plan/sum_traffic.h"

namespace aq {
namespace {

TaskPlan make_task(const Assignments& assignments, const LinearGroup& group) {
  TaskPlan task;
  for (const LinearSpec* linear : group.linears) {
    task.columns = linear->columns;
    task.expert = linear->expert;
    const Assignment& assignment = assignments.of(*linear);
    task.needs_hessian = task.needs_hessian || assignment.method == Method::gptq;
    task.matrices.push_back({*linear, assignment, {}});
  }
  if (task.needs_hessian && assignments.settings.runs_original()) {
    task.cross_of = cross_of(group.stage);
    task.cross_rows = cross_rows(group);
  }
  return task;
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

[[noreturn]] void refuse_limit(const Model& model, const Plan& plan, Index limit,
                               const std::string& other_remedies) {
  const auto& [stage, phase, memory] = plan.least;
  throw Error(ErrorKind::policy, "plan the run", model.architecture,
              str("even with one expert at a time stage ", stage_name(stage), ", phase ",
                  phase_name(phase), " needs ", bytes_text(memory.total()), " a rank (activations ",
                  bytes_text(memory.activations), ", buffers ", bytes_text(memory.buffers),
                  ", Hessians ", bytes_text(memory.hessians), ", weights ",
                  bytes_text(memory.weights), "), the limit is ", bytes_text(limit)),
              str("raise --memory to ", ceil_div(memory.total(), Index{1} << 20), "MiB, ",
                  other_remedies, "use more ranks, or fewer or shorter sequences"));
}

struct BitCount {
  double bits = 0, weights = 0;
};

/// What plans the waves of one layer.
struct LayerPlanner {
  const Assignments& assignments;
  const LayerSpec& layer;
  int ranks;
  int rotation;

  void place(StagePlan& stage) {
    place_stage(stage, ranks, rotation, assignments.settings.gptq.refine);
    rotation = (rotation + 1) % ranks;
  }

  /// The groups of a stage are its tasks.
  std::vector<StagePlan> stages(const std::vector<LinearGroup>& groups) {
    std::vector<StagePlan> stages;
    for (const LinearGroup& group : groups) {
      if (stages.empty() || stages.back().stage != group.stage)
        stages.push_back({.stage = group.stage, .tasks = {}});
      TaskPlan& task = stages.back().tasks.emplace_back(make_task(assignments, group));
      for (MatrixPlan& matrix : task.matrices) {
        matrix.coupled = is_coupled(assignments, layer, matrix.linear);
        if (matrix.coupled) task.output_rows += matrix.linear.rows;
      }
    }
    for (StagePlan& stage : stages) place(stage);
    return stages;
  }

  WavePlan wave(MlpKind kind, Range experts) {
    WavePlan wave{.kind = kind, .experts = experts};
    for (StagePlan* stage : {&wave.gate_up, &wave.down}) {
      for (Index e = experts.begin; e < experts.end; ++e)
        for (const LinearGroup& group : mlp_groups(layer.mlp(e)))
          if (group.stage == stage->stage) stage->tasks.push_back(make_task(assignments, group));
      place(*stage);
    }
    return wave;
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

/// MLPs of one kind, and the waves that they come in.
struct RunShape {
  MlpRun run;
  WaveShape wave;
};

LayerPlan plan_layer(const Assignments& assignments, const LayerSpec& layer, int ranks,
                     const std::vector<RunShape>& runs, Index all_tokens) {
  LayerPlanner planner{assignments, layer, ranks, static_cast<int>(layer.index % ranks)};
  LayerPlan plan{layer.index, planner.stages(groups_before_mlps(layer)), {}};
  for (const auto& [run, shape] : runs) {
    const Index experts = run.numbers.size();
    const Index waves = ceil_div(experts, shape.experts);
    for (Index w = 0; w < waves; ++w) {
      const Range share = even_share(experts, waves, w);
      WavePlan wave =
          planner.wave(run.kind, {run.numbers.begin + share.begin, run.numbers.begin + share.end});
      wave.limits = shape.limits;
      if (shape.limits.reduced > 0)
        place_dispatched(wave, experts, all_tokens * layer.moe->routing.top_k / experts, ranks,
                         assignments.settings.gptq.refine);
      plan.waves.push_back(std::move(wave));
    }
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

/// Raises what is there of each stage and phase; new ones go behind.
void raise(std::vector<MemoryMoment>& all, const std::vector<MemoryMoment>& moments) {
  for (const MemoryMoment& moment : moments) {
    const auto same = std::find_if(all.begin(), all.end(), [&](const MemoryMoment& other) {
      return other.stage == moment.stage && other.phase == moment.phase;
    });
    if (same == all.end())
      all.push_back(moment);
    else {
      const Index offloaded = std::max(moment.memory.offloaded, same->memory.offloaded);
      if (moment.memory.total() > same->memory.total()) *same = moment;
      same->memory.offloaded = offloaded;
    }
  }
}

/// The waves of the layer; the plan's memory becomes the layer's where that is more.
std::vector<RunShape> plan_memory(const Model& model, const LayerSpec& layer,
                                  const Assignments& assignments, const RankShare& share,
                                  const PlanLimits& limits, SumTraffics& sums, Plan& plan) {
  LayerSizes sizes = sizes_of(model, layer, assignments);
  std::vector<RunShape> runs;
  for (const MlpRun& run : mlp_runs(layer)) {
    set_experts(sizes, assignments, layer, run);
    mark_tree_sums(sizes, sums);
    const Index all = run.numbers.size();
    const auto most = [&](Index count) {
      return largest(layer_memory(sizes, share, wave_shape(sizes, share, count)));
    };
    runs.push_back({run, wave_shape(sizes, share, wave_size(sizes, all, share, limits.memory))});
    plan.one_wave_bytes = std::max(plan.one_wave_bytes, most(all).memory.total());
    if (const MemoryMoment one = most(1); one.memory.total() > plan.least.memory.total())
      plan.least = one;
    raise(plan.moments, layer_memory(sizes, share, runs.back().wave));
  }
  return runs;
}

}  // namespace

const StagePlan& LayerPlan::stage(Stage stage) const {
  static const StagePlan none;
  for (const StagePlan& before : before_mlps)
    if (before.stage == stage) return before;
  return none;
}

std::vector<const StagePlan*> LayerPlan::stages() const {
  std::vector<const StagePlan*> all;
  for (const StagePlan& before : before_mlps) all.push_back(&before);
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

bool StagePlan::has_output_factors() const {
  return std::any_of(tasks.begin(), tasks.end(),
                     [](const TaskPlan& task) { return task.output_rows > 0; });
}

bool StagePlan::quantizes() const {
  for (const TaskPlan& task : tasks)
    for (const MatrixPlan& matrix : task.matrices)
      if (matrix.assignment.method != Method::copy) return true;
  return false;
}

namespace {

/// The plan, if it fits.
std::optional<Plan> plan_that_fits(const Model& model, const Assignments& assignments, int ranks,
                                   const Workload& workload, const PlanLimits& limits) {
  try {
    return make_plan(model, assignments, ranks, workload, limits);
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Offloading, doing without the original stream, or both, where the run would fit with it.
std::string other_remedies(const Model& model, const Assignments& assignments, int ranks,
                           const Workload& workload, const PlanLimits& limits) {
  PlanLimits offloaded = limits;
  offloaded.offload = true;
  Assignments own = assignments;
  own.settings.target = Target::own;
  const bool may_offload = !limits.offload, two_streams = assignments.settings.runs_original();
  const auto fits = [&](const Assignments& assigned, const PlanLimits& limited) {
    return plan_that_fits(model, assigned, ranks, workload, limited);
  };
  std::string text;
  const auto add = [&](std::string_view what, const std::optional<Plan>& plan) {
    if (!plan) return;
    text += str("use ", what);
    if (may_offload && plan->offloaded_bytes > 0)
      text += str(" (", bytes_text(plan->offloaded_bytes), " a rank in files)");
    text += ", ";
  };
  constexpr std::string_view kOffload = "--offload DIR",
                             kOwn = "--target own (one stream of tokens, at a loss of fidelity)";
  if (may_offload) add(kOffload, fits(assignments, offloaded));
  if (two_streams) add(kOwn, fits(own, limits));
  if (text.empty() && may_offload && two_streams)
    add(str(kOwn, " with ", kOffload), fits(own, offloaded));
  return text;
}

}  // namespace

Plan make_plan(const Model& model, const Assignments& assignments, int ranks,
               const Workload& workload, const PlanLimits& limits) {
  Plan plan;
  plan.ranks = ranks;
  plan.dispatch = limits.dispatch;
  plan.lanes = workload.lanes;
  BitCount count;
  const RankShare share = rank_share(workload, ranks, limits);
  SumTraffics sums(workload.lanes, ranks);
  for (const LayerSpec& layer : model.layers) {
    const std::vector<RunShape> runs =
        plan_memory(model, layer, assignments, share, limits, sums, plan);
    plan.layers.push_back(plan_layer(assignments, layer, ranks, runs, share.all_tokens));
    for (const StagePlan* stage : plan.layers.back().stages()) count_stage(*stage, plan, count);
  }
  plan.head.tasks.push_back(make_task(assignments, {Stage::head, {&model.head}}));
  place_stage(plan.head, ranks, 0, assignments.settings.gptq.refine);
  count_stage(plan.head, plan, count);
  plan.memory = largest(plan.moments).memory;
  for (const MemoryMoment& moment : plan.moments)
    plan.offloaded_bytes = std::max(plan.offloaded_bytes, moment.memory.offloaded);
  if (limits.memory > 0 && plan.memory.total() > limits.memory)
    refuse_limit(model, plan, limits.memory,
                 other_remedies(model, assignments, ranks, workload, limits));
  plan.mean_bits = count.weights > 0 ? count.bits / count.weights : 0;
  return plan;
}

}  // namespace aq
