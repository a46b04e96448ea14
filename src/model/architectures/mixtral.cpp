#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Mixtral (transformers: models/mixtral): the weights of the chosen experts always sum to one.
extern const Architecture mixtral{
    .name = "mixtral",
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .layer = {.router = "block_sparse_moe.gate",
              .expert_gate = "block_sparse_moe.experts.{e}.w1",
              .expert_up = "block_sparse_moe.experts.{e}.w3",
              .expert_down = "block_sparse_moe.experts.{e}.w2"},
    .keys = {.experts = "num_local_experts"},
    .renormalize = Renormalize::always,
    .default_rope_theta = 1e6,
};

}  // namespace aq::architecture_rows
