#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// OLMoE (transformers: models/olmoe): RMS norm of q and k over the full projected width.
Architecture olmoe() {
  Architecture row;
  row.name = "olmoe";
  row.family = "olmoe";
  row.model_types = {"olmoe"};
  row.class_names = {"OlmoeForCausalLM"};
  row.keys.experts = {{"num_experts", "num_local_experts"}};
  row.keys.expert_width = {{"intermediate_size"}};
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.qk_norm = QkNorm::projection;
  row.renormalize.key = "norm_topk_prob";
  return row;
}

}  // namespace aq::architecture_rows
