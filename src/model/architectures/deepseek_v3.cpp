#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// DeepSeek-V3, R1, Kimi-K2 (arXiv:2412.19437; transformers: models/deepseek_v3): sigmoid scores,
/// chosen with a correction bias, in groups whose two best experts count.
Architecture deepseek_v3() {
  Architecture row;
  row.name = "deepseek_v3";
  row.family = "deepseek";
  row.model_types = {"deepseek_v3", "kimi_k2"};
  row.class_names = {"DeepseekV3ForCausalLM"};
  row.tensors.correction_bias = "mlp.gate.e_score_correction_bias";
  row.keys.experts = {{"n_routed_experts", "num_local_experts"}};
  row.keys.shared_experts = {{"n_shared_experts"}};
  row.keys.first_moe_layer = {{"first_k_dense_replace"}};
  row.keys.moe_every = {{"moe_layer_freq"}, 1};
  row.keys.router_scale = {{"routed_scaling_factor"}, 2.5};
  row.keys.groups = {{"n_group"}, 8};
  row.keys.kept_groups = {{"topk_group"}, 4};
  row.keys.norm_eps.otherwise = 1e-6;
  row.latent_attention = true;
  // transformers writes sums and copies of qk_nope_head_dim and qk_rope_head_dim.
  row.unused_keys = {"head_dim", "qk_head_dim", "num_key_value_heads"};
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.rope_interleaved = {"rope_interleave", true};
  row.score = RouterScore::sigmoid;
  row.renormalize = {"norm_topk_prob", true};
  row.group_score = GroupScore::two_largest;
  return row;
}

}  // namespace aq::architecture_rows
