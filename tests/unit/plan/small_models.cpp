#include "small_models.h"

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "aq/model/architecture.h"

namespace aq::test {

Model small_moe() {
  return describe_model(R"({"model_type": "olmoe", "vocab_size": 300, "hidden_size": 192,
      "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_experts": 17, "num_experts_per_tok": 3})",
                        "config.json");
}

Model small_mixtral() {
  return describe_model(R"({"model_type": "mixtral", "vocab_size": 300, "hidden_size": 256,
      "intermediate_size": 130, "num_hidden_layers": 1, "num_attention_heads": 8,
      "num_key_value_heads": 4, "head_dim": 8, "num_local_experts": 5, "num_experts_per_tok": 2})",
                        "config.json");
}

Model small_dense() {
  return describe_model(R"({"model_type": "llama", "vocab_size": 300, "hidden_size": 320,
      "intermediate_size": 700, "num_hidden_layers": 3, "num_attention_heads": 5,
      "num_key_value_heads": 1})",
                        "config.json");
}

Model published_moe() {
  return describe_model(R"({"model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048,
      "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
      "num_experts": 64, "num_experts_per_tok": 8})",
                        "config.json");
}

Workload workload(Index sequences, Index length) {
  return {{.sequences = sequences, .lanes = default_lane_count(sequences)}, length};
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
