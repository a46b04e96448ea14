#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// Dense Llama (transformers: models/llama).
extern const Architecture llama{
    .name = "llama",
    .model_type = "llama",
    .class_name = "LlamaForCausalLM",
    .layer = {},
    .keys = {},
    .default_norm_eps = 1e-6,
};

}  // namespace aq::architecture_rows
