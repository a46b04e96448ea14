#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// gpt-oss 20b and 120b (transformers: models/gpt_oss): experts in 3-D tensors, biases everywhere,
/// a sink logit for each head, a window in every second layer, a clamped activation.
Architecture gpt_oss() {
  Architecture row;
  row.name = "gpt_oss";
  row.family = "gpt_oss";
  row.model_types = {"gpt_oss"};
  row.class_names = {"GptOssForCausalLM"};
  row.tensors.router = "mlp.router";
  row.tensors.sinks = "self_attn.sinks";
  row.keys.experts = {{"num_local_experts", "num_experts"}};
  row.keys.experts_per_token = {{"num_experts_per_tok", "experts_per_token"}};
  row.keys.expert_width = {{"intermediate_size"}};
  row.keys.rope_theta.otherwise = 150000;
  row.qkv_bias = row.o_bias = {"attention_bias", true};
  row.router_bias.otherwise = true;
  row.expert_bias.otherwise = true;
  row.sliding_window.otherwise = true;
  row.keys.window.otherwise = 128;
  row.windowed_layers = WindowedLayers::even;
  row.unused_keys = {"initial_context_length"};  // rope_scaling says the context before scaling
  row.score = RouterScore::softmax_of_chosen;
  row.clamped_activation = true;
  row.fused_experts = true;
  row.fused_interleaved = true;
  row.fused_transposed = true;
  return row;
}

}  // namespace aq::architecture_rows
