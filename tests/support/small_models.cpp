#include "support/small_models.h"

#include "aq/model/architecture.h"

namespace aq::test {

Model small_moe() {
  return describe_model(R"({"model_type": "olmoe", "vocab_size": 300, "hidden_size": 192,
      "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_experts": 17, "num_experts_per_tok": 3})",
                        "config.json");
}

Model small_mixtral() {
  return describe_model(R"({"model_type": "mixtral", "vocab_size": 300, "hidden_size": 256,
      "intermediate_size": 130, "num_hidden_layers": 1, "num_attention_heads": 8,
      "num_key_value_heads": 4, "head_dim": 8, "num_local_experts": 5, "num_experts_per_tok": 2})",
                        "config.json");
}

Model small_dense() {
  return describe_model(R"({"model_type": "llama", "vocab_size": 300, "hidden_size": 320,
      "intermediate_size": 700, "num_hidden_layers": 3, "num_attention_heads": 5,
      "num_key_value_heads": 1})",
                        "config.json");
}

Model published_moe() {
  return describe_model(R"({"model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048,
      "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
      "num_experts": 64, "num_experts_per_tok": 8})",
                        "config.json");
}

}  // namespace aq::test
