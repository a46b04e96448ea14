#include <algorithm>
#include <set>

#include "aq/core/text.h"
#include "aq/plan/choose.h"
#include "plan/memory.h"

namespace aq {
namespace {

std::string bytes(double value) {
  return bytes_text(static_cast<Index>(value));
}

std::string count_of(Index count, const std::string& one) {
  return str(count, " ", one, count == 1 ? "" : "s");
}

/// Waves of routed experts of the layer that has most of them.
Index most_waves(const Plan& plan) {
  Index most = 0;
  for (const LayerPlan& layer : plan.layers)
    most =
        std::max<Index>(most, std::count_if(layer.waves.begin(), layer.waves.end(),
                                            [](const WavePlan& wave) { return wave.is_routed(); }));
  return most;
}

std::string explain_waves(const Model& model, const Plan& plan, const PlanLimits& limits) {
  const LayerSpec& layer = *model.moe_layers().front();
  const Index experts = layer.moe->routing.experts;
  const Index waves = most_waves(plan);
  const bool has_shared = first_mlp(layer, MlpKind::shared) != nullptr;
  const std::string shared = has_shared ? " A shared expert is a wave of its own." : "";
  if (waves == 1)
    return str("Waves: all ", experts, " experts of a layer at once; the peak is ",
               bytes_text(plan.one_wave_bytes), " a rank.", shared);
  return str("Waves: ", waves, " waves of at most ", ceil_div(experts, waves),
             " experts; all at once would take ", bytes_text(plan.one_wave_bytes),
             " a rank, the limit is ", bytes_text(limits.memory), ".", shared);
}

std::string explain_memory(const Plan& plan) {
  const MemoryMoment& most = largest(plan.moments);
  const MemoryEstimate& m = most.memory;
  const std::pair<Index, const char*> parts[] = {{m.activations, "activations of its tokens"},
                                                 {m.buffers, "buffers"},
                                                 {m.hessians, "Hessian sums and factors"},
                                                 {m.weights, "weights and packed results"},
                                                 {m.libraries, "libraries and workspaces"}};
  const auto& largest_part = *std::max_element(std::begin(parts), std::end(parts));
  const std::string files =
      plan.offloaded_bytes == 0
          ? ""
          : str(" Up to ", bytes_text(plan.offloaded_bytes),
                " of activations lie in files; what writing and reading them takes where memory is "
                "short is not in the estimated time.");
  return str("Memory: the peak is in ", stage_name(most.stage), ", ", phase_name(most.phase),
             "; most of it are ", largest_part.second, " (", bytes_text(largest_part.first), ").",
             files);
}

std::string explain_lanes(const Plan& plan, const CostEstimate& cost) {
  if (cost.token_ranks < plan.ranks)
    return str(
        "Lanes: ", plan.lanes.lanes, " on ", plan.ranks, " ranks, so ", cost.token_ranks,
        " ranks have calibration tokens and run the forward pass; the others only own "
        "matrices",
        plan.lanes.lanes * 2 <= plan.lanes.sequences ? "; more --lanes make them more." : ".");
  return str("Lanes: ", plan.lanes.lanes, " on ", count_of(plan.ranks, "rank"), ", ",
             count_of(ceil_div(plan.lanes.lanes, plan.ranks), "lane"), " a rank at most.");
}

/// How tokens, sums and results come together.
std::string explain_way(const ChosenPlan& chosen) {
  const Traffic& most = chosen.cost.most.traffic;
  if (chosen.plan.ranks == 1) return "Tokens: one rank has all of them.";
  if (!chosen.plan.dispatch)
    return str("Tokens: every rank runs its own through all experts (", chosen.reason,
               "); a rank sends up to ", bytes(most.reduce_sent),
               " of partial sums to the owners and gets up to ", bytes(most.exchange_received),
               " of packed results and factors.");
  return str("Tokens: those of routed experts travel to the owners (", chosen.reason,
             "); a rank sends up to ", bytes(most.dispatch_sent),
             " of inputs and outputs, and up to ", bytes(most.reduce_sent),
             " of partial sums of everything else. An expert with more tokens than an owner takes "
             "is run by all ranks.");
}

struct SplitStages {
  Index stages = 0, split = 0, most_ranks = 0;
};

SplitStages count_split(const Plan& plan) {
  SplitStages count;
  const auto see = [&](const StagePlan& stage) {
    if (!stage.quantizes()) return;
    ++count.stages;
    bool split = false;
    for (const TaskPlan& task : stage.tasks) {
      if (!task.split) continue;
      split = true;
      std::set<int> ranks;
      for (const MatrixPlan& matrix : task.matrices)
        for (const Slice& slice : matrix.slices) ranks.insert(slice.rank);
      count.most_ranks = std::max<Index>(count.most_ranks, std::ssize(ranks));
    }
    if (split) ++count.split;
  };
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : layer.stages()) see(*stage);
  see(plan.head);
  return count;
}

std::string explain_rows(const Plan& plan) {
  const SplitStages count = count_split(plan);
  if (count.split == 0)
    return plan.ranks == 1 ? "Rows: whole matrices, one rank solves all."
                           : "Rows: whole matrices, every stage has a task for each rank.";
  return str("Rows: in ", count.split, " of ", count.stages,
             " stages rows of one task are dealt to up to ", count.most_ranks,
             " ranks, because the stage has fewer tasks than ranks or some left "
             "over; more would wait longer for the factor from its owner than they save.");
}

std::string explain_balance(const CostEstimate& cost) {
  return str("Balance: ranks are at work ", fixed(100 * cost.balance, 0),
             " % of the time that the busiest one factors and solves (",
             fixed(100 * cost.least_balance, 0), " % in the stage with the least).");
}

const char* reason(Phase phase, bool dispatch) {
  switch (phase) {
    case Phase::exchange:
      return "packed results of every matrix go to every rank";
    case Phase::dispatch:
      return "inputs of routed experts go to their owners, outputs come back";
    case Phase::reduce:
      return "partial sums of every Hessian go to its owner";
    case Phase::forward:
      return dispatch ? "attention and shared experts run where their lanes are"
                      : "ranks with tokens unpack and run every expert";
    case Phase::hessian:
      return "sums over the inputs of every linear";
    case Phase::solve:
      return "GPTQ and its sweeps of refinement";
    case Phase::factor:
      return "one rank factors a Hessian";
    case Phase::merge:
      return "one rank writes model.h5";
    case Phase::embed:
    case Phase::read:
    case Phase::write:
    case Phase::resume:
      return "files";
  }
  return "";
}

std::string explain_limit(const Plan& plan, const CostEstimate& cost) {
  const auto& most =
      *std::max_element(cost.seconds.begin(), cost.seconds.end(),
                        [](const auto& a, const auto& b) { return a.second < b.second; });
  return str("Limit: ", phase_name(most.first), " takes ",
             fixed(100 * most.second / cost.total_seconds, 0),
             " % of the time: ", reason(most.first, plan.dispatch), ".");
}

}  // namespace

std::vector<std::string> explain_plan(const Model& model, const ChosenPlan& chosen,
                                      const PlanLimits& limits, const CostOptions& options) {
  const Plan& plan = chosen.plan;
  const CostEstimate& cost = chosen.cost;
  std::vector<std::string> text;
  if (!model.moe_layers().empty()) text.push_back(explain_waves(model, plan, limits));
  text.push_back(explain_memory(plan));
  text.push_back(explain_lanes(plan, cost));
  text.push_back(explain_way(chosen));
  text.push_back(explain_rows(plan));
  text.push_back(explain_balance(cost));
  text.push_back(explain_limit(plan, cost));
  if (options.machine.gpus > 0)
    text.push_back(str("GPUs: the ", options.machine.gpus,
                       " of a node are not counted; times are those of its cores."));
  return text;
}

}  // namespace aq
