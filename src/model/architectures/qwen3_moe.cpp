#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Qwen3-MoE: 30B-A3B, 235B-A22B, Coder (transformers: models/qwen3_moe).
Architecture qwen3_moe() {
  Architecture row;
  row.name = "qwen3_moe";
  row.family = "qwen";
  row.model_types = {"qwen3_moe"};
  row.class_names = {"Qwen3MoeForCausalLM"};
  row.keys.experts = {{"num_experts", "num_local_experts"}};
  row.keys.moe_every = {{"decoder_sparse_step"}, 1};
  row.keys.dense_layers = {"mlp_only_layers"};
  row.keys.norm_eps.otherwise = 1e-6;
  row.moe_offset = 1;
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.qk_norm = QkNorm::head;
  row.sliding_window.key = "use_sliding_window";
  row.keys.window.otherwise = 4096;
  row.layer_types = false;
  row.unused_keys = {"max_window_layers"};  // every layer has the window, or none
  row.renormalize.key = "norm_topk_prob";
  return row;
}

}  // namespace aq::architecture_rows
