#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Dense Llama 1 to 3 (transformers: models/llama).
Architecture llama() {
  Architecture row;
  row.name = "llama";
  row.family = "standard";
  row.model_types = {"llama"};
  row.class_names = {"LlamaForCausalLM"};
  row.keys.norm_eps.otherwise = 1e-6;
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.mlp_bias.key = "mlp_bias";
  return row;
}

}  // namespace aq::architecture_rows
