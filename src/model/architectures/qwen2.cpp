#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Dense Qwen2 and Qwen2.5 (transformers: models/qwen2): q, k and v always have biases.
Architecture qwen2() {
  Architecture row;
  row.name = "qwen2";
  row.family = "standard";
  row.model_types = {"qwen2"};
  row.class_names = {"Qwen2ForCausalLM"};
  row.keys.norm_eps.otherwise = 1e-6;
  row.qkv_bias.otherwise = true;
  row.sliding_window.key = "use_sliding_window";
  row.keys.window.otherwise = 4096;
  row.windowed_layers = WindowedLayers::from_max_window_layers;
  return row;
}

}  // namespace aq::architecture_rows
