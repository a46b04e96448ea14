#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Mixtral (transformers: models/mixtral): the weights of the chosen experts always sum to one.
Architecture mixtral() {
  Architecture row;
  row.name = "mixtral";
  row.family = "mixtral";
  row.model_types = {"mixtral"};
  row.class_names = {"MixtralForCausalLM"};
  row.tensors.router = "block_sparse_moe.gate";
  row.tensors.expert_gate = "block_sparse_moe.experts.{e}.w1";
  row.tensors.expert_up = "block_sparse_moe.experts.{e}.w3";
  row.tensors.expert_down = "block_sparse_moe.experts.{e}.w2";
  row.keys.experts = {{"num_local_experts", "num_experts"}};
  row.keys.expert_width = {{"intermediate_size"}};
  row.keys.rope_theta.otherwise = 1e6;
  row.sliding_window.otherwise = true;
  row.layer_types = false;
  row.renormalize.otherwise = true;
  return row;
}

}  // namespace aq::architecture_rows
