#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// DeepSeek-MoE 16B (arXiv:2401.06066; deepseek-ai/deepseek-moe-16b-base: modeling_deepseek.py):
/// the attention of Llama, shared experts that every token goes through.
Architecture deepseek() {
  Architecture row;
  row.name = "deepseek";
  row.family = "deepseek";
  row.model_types = {"deepseek"};
  row.class_names = {"DeepseekForCausalLM"};
  row.keys.experts = {{"n_routed_experts", "num_experts"}};
  row.keys.shared_experts = {{"n_shared_experts"}};
  row.keys.first_moe_layer = {{"first_k_dense_replace"}};
  row.keys.moe_every = {{"moe_layer_freq"}, 1};
  row.keys.norm_eps.otherwise = 1e-6;
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.renormalize.key = "norm_topk_prob";
  return row;
}

}  // namespace aq::architecture_rows
