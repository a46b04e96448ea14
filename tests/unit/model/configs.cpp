#include "configs.h"

namespace aq::test {

using nlohmann::json;

json tiny_olmoe() {
  return json::parse(R"({
    "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "num_experts": 3, "num_experts_per_tok": 2})");
}

json tiny_mixtral() {
  return json::parse(R"({
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2})");
}

json tiny_llama() {
  return json::parse(R"({
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6})");
}

}  // namespace aq::test
