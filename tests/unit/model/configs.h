#pragma once
/// config.json texts as they are published, and small ones.

#include <nlohmann/json.hpp>

namespace aq::test {

nlohmann::json olmoe_1b_7b();
nlohmann::json mixtral_8x7b();
nlohmann::json llama_2_7b();
/// With its llama3 scaling of the rotary embedding.
nlohmann::json llama_3_2_3b();

/// The smallest sizes that keep every extent different: vocabulary 11, hidden 8, 4 heads of 2, one
/// layer, 3 experts of width 6, 2 experts a token.
nlohmann::json tiny_olmoe();
/// The same with 2 key heads.
nlohmann::json tiny_mixtral();
/// The same with a head_dim of its own (6) and two dense layers.
nlohmann::json tiny_llama();

}  // namespace aq::test
