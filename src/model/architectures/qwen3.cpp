#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Dense Qwen3 (transformers: models/qwen3): each head of q and k is normalised by itself.
Architecture qwen3() {
  Architecture row;
  row.name = "qwen3";
  row.family = "standard";
  row.model_types = {"qwen3"};
  row.class_names = {"Qwen3ForCausalLM"};
  row.keys.norm_eps.otherwise = 1e-6;
  row.qkv_bias.key = row.o_bias.key = "attention_bias";
  row.keys.head_dim.otherwise = 128;
  row.qk_norm = QkNorm::head;
  row.sliding_window.key = "use_sliding_window";
  row.keys.window.otherwise = 4096;
  row.windowed_layers = WindowedLayers::from_max_window_layers;
  return row;
}

}  // namespace aq::architecture_rows
