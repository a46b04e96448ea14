#include "model/architectures/table.h"

namespace aq::architecture_rows {

/// OLMoE (transformers: models/olmoe): RMS norm of q and k over the full projected width.
extern const Architecture olmoe{
    .name = "olmoe",
    .model_type = "olmoe",
    .class_name = "OlmoeForCausalLM",
    .layer = {},
    .keys = {.experts = "num_experts"},
    .qk_norm = QkNorm::projection,
    .renormalize = Renormalize::by_config,
};

}  // namespace aq::architecture_rows
