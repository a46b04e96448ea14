#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// DeepSeek-V2, V2-Lite, V2.5 (arXiv:2405.04434; transformers: models/deepseek_v2): latent
/// attention, experts in groups of which the best are kept. The weights are never renormalised.
Architecture deepseek_v2() {
  Architecture row;
  row.name = "deepseek_v2";
  row.family = "deepseek";
  row.model_types = {"deepseek_v2"};
  row.class_names = {"DeepseekV2ForCausalLM"};
  row.keys.experts = {{"n_routed_experts", "num_local_experts"}};
  row.keys.shared_experts = {{"n_shared_experts"}};
  row.keys.first_moe_layer = {{"first_k_dense_replace"}};
  row.keys.moe_every = {{"moe_layer_freq"}, 1};
  row.keys.router_scale = {{"routed_scaling_factor"}, 1};
  row.keys.groups = {{"n_group"}, 1};
  row.keys.kept_groups = {{"topk_group"}, 1};
  row.keys.norm_eps.otherwise = 1e-6;
  row.latent_attention = true;
  // transformers writes sums and copies of qk_nope_head_dim and qk_rope_head_dim.
  row.unused_keys = {"head_dim", "qk_head_dim", "num_key_value_heads"};
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.rope_interleaved.otherwise = true;
  row.group_score = GroupScore::largest;
  return row;
}

}  // namespace aq::architecture_rows
