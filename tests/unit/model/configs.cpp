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

json tiny_qwen2_moe() {
  return json::parse(R"({
    "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 7, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts": 2, "num_experts_per_tok": 2,
    "moe_intermediate_size": 6, "shared_expert_intermediate_size": 5, "decoder_sparse_step": 2})");
}

json tiny_deepseek_v3() {
  return json::parse(R"({
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 7, "num_hidden_layers": 1, "num_attention_heads": 4,
    "q_lora_rank": 5, "kv_lora_rank": 6, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2,
    "v_head_dim": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2,
    "moe_intermediate_size": 6, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 0})");
}

json tiny_glm4_moe() {
  json config = tiny_deepseek_v3();
  config["model_type"] = "glm4_moe";
  for (const char* key :
       {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"})
    config.erase(key);
  return config;
}

json tiny_llama() {
  return json::parse(R"({
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11,
    "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6})");
}

}  // namespace aq::test
