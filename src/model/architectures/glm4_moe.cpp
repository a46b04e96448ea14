#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// GLM-4.5, GLM-4.5-Air (transformers: models/glm4_moe): half of each head is rotated.
Architecture glm4_moe() {
  Architecture row;
  row.name = "glm4_moe";
  row.family = "glm";
  row.model_types = {"glm4_moe", "glm4v_moe_text"};
  row.class_names = {"Glm4MoeForCausalLM"};
  row.tensors.correction_bias = "mlp.gate.e_score_correction_bias";
  row.keys.experts = {{"n_routed_experts", "num_local_experts"}};
  row.keys.shared_experts = {{"n_shared_experts"}};
  row.keys.first_moe_layer = {{"first_k_dense_replace"}};
  row.keys.router_scale = {{"routed_scaling_factor"}, 1};
  row.keys.groups = {{"n_group"}, 1};
  row.keys.kept_groups = {{"topk_group"}, 1};
  row.keys.partial_rotary.otherwise = 0.5;
  row.qkv_bias.key = "attention_bias";
  row.qk_norm = QkNorm::head;
  row.has_qk_norm = {"use_qk_norm", false};
  row.score = RouterScore::sigmoid;
  row.renormalize = {"norm_topk_prob", true};
  row.group_score = GroupScore::two_largest;
  return row;
}

}  // namespace aq::architecture_rows
