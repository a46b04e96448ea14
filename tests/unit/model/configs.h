#pragma once
/// Small config.json texts.

#include <nlohmann/json.hpp>

namespace aq::test {

/// The smallest sizes that keep every extent different: vocabulary 11, hidden 8, 4 heads of 2, one
/// layer, 3 experts of width 6, 2 experts a token.
nlohmann::json tiny_olmoe();
/// The same with 2 key heads.
nlohmann::json tiny_mixtral();
/// A dense layer of width 7, then 2 experts and a shared one of width 5; biases of q, k and v.
nlohmann::json tiny_qwen2_moe();
/// Latent attention: 4 heads of 3 + 2, values of 4, ranks 5 and 6; 4 experts in 2 groups and a
/// shared one of twice their width.
nlohmann::json tiny_deepseek_v3();
/// The same experts with the attention of GLM-4.5, heads of 2.
nlohmann::json tiny_glm4_moe();
/// The same with a head_dim of its own (6) and two dense layers.
nlohmann::json tiny_llama();

}  // namespace aq::test
