#pragma once
/// Small config.json texts.

#include <nlohmann/json.hpp>

namespace aq::test {

/// The smallest sizes that keep every extent different: vocabulary 11, hidden 8, 4 heads of 2, one
/// layer, 3 experts of width 6, 2 experts a token.
nlohmann::json tiny_olmoe();
/// The same with 2 key heads.
nlohmann::json tiny_mixtral();
/// The same with a head_dim of its own (6) and two dense layers.
nlohmann::json tiny_llama();

}  // namespace aq::test
