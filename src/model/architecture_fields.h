#pragma once
/// The fields of an architecture's row and what they are called in a file.

#include "aq/model/architecture.h"

namespace aq {

/// Calls visit(section, key, field) for every field but the name.
template <class Row, class Visit>
void visit_fields(Row& row, const Visit& visit) {
  visit("match", "model_types", row.model_types);
  visit("match", "class_names", row.class_names);

  auto& tensors = row.tensors;
  visit("tensors", "embedding", tensors.embedding);
  visit("tensors", "final_norm", tensors.final_norm);
  visit("tensors", "head", tensors.head);
  visit("tensors", "layer", tensors.layer);
  visit("tensors", "input_norm", tensors.input_norm);
  visit("tensors", "post_attention_norm", tensors.post_attention_norm);
  visit("tensors", "q", tensors.q);
  visit("tensors", "k", tensors.k);
  visit("tensors", "v", tensors.v);
  visit("tensors", "o", tensors.o);
  visit("tensors", "q_norm", tensors.q_norm);
  visit("tensors", "k_norm", tensors.k_norm);
  visit("tensors", "q_a", tensors.q_a);
  visit("tensors", "q_a_norm", tensors.q_a_norm);
  visit("tensors", "q_b", tensors.q_b);
  visit("tensors", "kv_a", tensors.kv_a);
  visit("tensors", "kv_a_norm", tensors.kv_a_norm);
  visit("tensors", "kv_b", tensors.kv_b);
  visit("tensors", "sinks", tensors.sinks);
  visit("tensors", "dense_gate", tensors.dense_gate);
  visit("tensors", "dense_up", tensors.dense_up);
  visit("tensors", "dense_down", tensors.dense_down);
  visit("tensors", "router", tensors.router);
  visit("tensors", "correction_bias", tensors.correction_bias);
  visit("tensors", "expert_gate", tensors.expert_gate);
  visit("tensors", "expert_up", tensors.expert_up);
  visit("tensors", "expert_down", tensors.expert_down);
  visit("tensors", "shared_gate", tensors.shared_gate);
  visit("tensors", "shared_up", tensors.shared_up);
  visit("tensors", "shared_down", tensors.shared_down);
  visit("tensors", "shared_router", tensors.shared_router);
  visit("tensors", "fused_gate_up", tensors.fused_gate_up);
  visit("tensors", "fused_down", tensors.fused_down);

  auto& keys = row.keys;
  visit("config", "vocabulary", keys.vocabulary);
  visit("config", "hidden", keys.hidden);
  visit("config", "layers", keys.layers);
  visit("config", "max_positions", keys.max_positions);
  visit("config", "heads", keys.heads);
  visit("config", "kv_heads", keys.kv_heads);
  visit("config", "head_dim", keys.head_dim);
  visit("config", "norm_eps", keys.norm_eps);
  visit("config", "rope_theta", keys.rope_theta);
  visit("config", "partial_rotary", keys.partial_rotary);
  visit("config", "dense_width", keys.dense_width);
  visit("config", "experts", keys.experts);
  visit("config", "experts_per_token", keys.experts_per_token);
  visit("config", "expert_width", keys.expert_width);
  visit("config", "shared_width", keys.shared_width);
  visit("config", "shared_experts", keys.shared_experts);
  visit("config", "first_moe_layer", keys.first_moe_layer);
  visit("config", "moe_every", keys.moe_every);
  visit("config", "dense_layers", keys.dense_layers);
  visit("config", "router_scale", keys.router_scale);
  visit("config", "groups", keys.groups);
  visit("config", "kept_groups", keys.kept_groups);
  visit("config", "q_rank", keys.q_rank);
  visit("config", "kv_rank", keys.kv_rank);
  visit("config", "nope_dim", keys.nope_dim);
  visit("config", "rope_dim", keys.rope_dim);
  visit("config", "value_dim", keys.value_dim);
  visit("config", "swiglu_limit", keys.swiglu_limit);
  visit("config", "swiglu_alpha", keys.swiglu_alpha);
  visit("config", "window", keys.window);
  visit("config", "max_window_layers", keys.max_window_layers);
  visit("config", "unused_keys", row.unused_keys);

  visit("attention", "latent", row.latent_attention);
  visit("attention", "qk_norm", row.qk_norm);
  visit("attention", "has_qk_norm", row.has_qk_norm);
  visit("attention", "qkv_bias", row.qkv_bias);
  visit("attention", "o_bias", row.o_bias);
  visit("attention", "sliding_window", row.sliding_window);
  visit("attention", "windowed_layers", row.windowed_layers);
  visit("attention", "layer_types", row.layer_types);
  visit("attention", "rope_interleaved", row.rope_interleaved);

  visit("experts", "score", row.score);
  visit("experts", "renormalize", row.renormalize);
  visit("experts", "group_score", row.group_score);
  visit("experts", "moe_offset", row.moe_offset);
  visit("experts", "mlp_bias", row.mlp_bias);
  visit("experts", "router_bias", row.router_bias);
  visit("experts", "expert_bias", row.expert_bias);
  visit("experts", "clamped_activation", row.clamped_activation);
  visit("experts", "fused", row.fused_experts);
  visit("experts", "fused_interleaved", row.fused_interleaved);
  visit("experts", "fused_transposed", row.fused_transposed);
}

}  // namespace aq
