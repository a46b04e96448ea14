#include "plans.h"

#include <algorithm>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq::test {

Workload workload(Index sequences, Index length) {
  return {{.sequences = sequences, .lanes = default_lane_count(std::min<Index>(sequences, 64))},
          length};
}

Plan plan_of(const Model& model, const Recipe& recipe, int ranks, const Workload& workload,
             const PlanLimits& limits) {
  return make_plan(model, assign(recipe, model), ranks, workload, limits);
}

std::vector<const StagePlan*> stages_of(const LayerPlan& layer) {
  return layer.stages();
}

std::vector<const StagePlan*> stages_of(const Plan& plan) {
  std::vector<const StagePlan*> stages;
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : stages_of(layer)) stages.push_back(stage);
  stages.push_back(&plan.head);
  return stages;
}

namespace {

void add_stage(std::string& text, const StagePlan& stage) {
  text += str("stage balance ", shortest(stage.balance), "\n");
  for (const TaskPlan& task : stage.tasks) {
    text += str("task ", task.columns, " expert ", task.expert, " owner ", task.owner, " hessian ",
                task.needs_hessian, " split ", task.split, "\n");
    for (const MatrixPlan& matrix : task.matrices) {
      const LinearSpec& linear = matrix.linear;
      text +=
          str("matrix ", linear.name, " ", linear.rows, "x", linear.columns, " ",
              method_name(matrix.assignment.method), " ", to_string(matrix.assignment.scheme), " ",
              scale_type_name(matrix.assignment.scheme.scale_type), " writer ", matrix.writer());
      for (const Slice& slice : matrix.slices)
        text += str(" ", slice.rank, ":", slice.rows.begin, "..", slice.rows.end);
      text += "\n";
    }
  }
}

}  // namespace

std::string plan_text(const Plan& plan) {
  std::string text =
      str(plan.ranks, " ranks, lanes ", plan.lanes.lanes, " of ", plan.lanes.sequences, ", memory ",
          plan.memory.activations, " ", plan.memory.buffers, " ", plan.memory.hessians, " ",
          plan.memory.weights, ", matrices ", plan.quantized_count, " of ", plan.matrix_count,
          ", bits ", shortest(plan.mean_bits), ", balance ", shortest(plan.balance), "\n");
  for (const LayerPlan& layer : plan.layers) {
    text += str("layer ", layer.index, "\n");
    for (const StagePlan& stage : layer.before_mlps) add_stage(text, stage);
    for (const WavePlan& wave : layer.waves) {
      text += str("wave ", wave.experts.begin, "..", wave.experts.end, "\n");
      for (const StagePlan* stage : {&wave.gate_up, &wave.down}) add_stage(text, *stage);
    }
  }
  add_stage(text, plan.head);
  return text;
}

}  // namespace aq::test
