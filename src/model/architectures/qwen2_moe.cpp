#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Qwen2-MoE: Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B (transformers: models/qwen2_moe). A shared expert
/// whose factor is the sigmoid of one more linear.
Architecture qwen2_moe() {
  Architecture row;
  row.name = "qwen2_moe";
  row.family = "qwen";
  row.model_types = {"qwen2_moe"};
  row.class_names = {"Qwen2MoeForCausalLM"};
  row.tensors.shared_gate = "mlp.shared_expert.gate_proj";
  row.tensors.shared_up = "mlp.shared_expert.up_proj";
  row.tensors.shared_down = "mlp.shared_expert.down_proj";
  row.tensors.shared_router = "mlp.shared_expert_gate";
  row.keys.experts = {{"num_experts", "num_local_experts"}};
  row.keys.shared_width = {{"shared_expert_intermediate_size"}};
  row.keys.moe_every = {{"decoder_sparse_step"}, 1};
  row.keys.dense_layers = {"mlp_only_layers"};
  row.keys.norm_eps.otherwise = 1e-6;
  row.moe_offset = 1;
  row.qkv_bias = {"qkv_bias", true};
  row.sliding_window.key = "use_sliding_window";
  row.keys.window.otherwise = 4096;
  row.windowed_layers = WindowedLayers::even_below_max_window_layers;
  row.renormalize.key = "norm_topk_prob";
  return row;
}

}  // namespace aq::architecture_rows
