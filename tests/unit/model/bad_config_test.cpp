#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "configs.h"

namespace aq {
namespace {

constexpr const char* kFile = "some/model/config.json";

void expect_refused(const std::string& text, const std::vector<std::string>& parts) {
  SCOPED_TRACE(text.substr(0, 200));
  try {
    describe_model(text, kFile);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(), testing::HasSubstr(kFile));
    for (const std::string& part : parts) EXPECT_THAT(error.what(), testing::HasSubstr(part));
    EXPECT_LT(std::string(error.what()).size(), 600u);
  }
}

TEST(BadConfig, IsNoJsonObject) {
  for (const char* text : {"", " ", "{", "{]", "not JSON", "{\"vocab_size\": 1,}", "{'a': 1}",
                           "{\"a\": nan}", "{\"a\": 1e999}", "{\"a\": \"\xff\"}",
                           "\x7f"
                           "ELF"})
    expect_refused(text, {"valid JSON"});
  for (const char* text : {"[]", "[{\"model_type\": \"olmoe\"}]", "3", "\"olmoe\"", "null", "true"})
    expect_refused(text, {"JSON object"});
}

TEST(BadConfig, DeepNestingIsNoCrash) {
  expect_refused(std::string(200000, '['), {"valid JSON"});
  expect_refused(std::string(100000, '[') + std::string(100000, ']'), {"64 levels"});
  expect_refused("{\"hidden_size\":" + std::string(65, '[') + std::string(65, ']') + "}",
                 {"64 levels"});
}

TEST(BadConfig, EveryNeededKeyIsNamedWhenItIsMissingOrNull) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_experts", "num_experts_per_tok"}) {
    nlohmann::json config = test::tiny_olmoe();
    config.erase(key);
    expect_refused(config.dump(), {"'" + std::string(key) + "'", "is missing"});
    config[key] = nullptr;
    expect_refused(config.dump(), {"'" + std::string(key) + "'", "is missing"});
  }
  nlohmann::json mixtral = test::tiny_mixtral();
  mixtral.erase("num_local_experts");
  expect_refused(mixtral.dump(), {"'num_local_experts'", "is missing"});
}

TEST(BadConfig, EverySizeMustBeAWholeNumberThatIsPossible) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_experts", "num_experts_per_tok",
                          "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const char* value :
         {"0", "-1", "2.0", "2.5", "\"8\"", "[8]", "{}", "true", "1e300", "9223372036854775807",
          "9223372036854775808", "18446744073709551615", "-9223372036854775808", "1099511627776"}) {
      nlohmann::json config = test::tiny_olmoe();
      config[key] = nlohmann::json::parse(value);
      expect_refused(config.dump(), {"'" + std::string(key) + "'"});
    }
}

struct Case {
  const char* key;
  const char* value;
  std::vector<std::string> parts;
};

TEST(BadConfig, Table) {
  const std::vector<Case> cases{
      {"num_experts_per_tok", "4", {"'num_experts_per_tok'", "4", "3 experts"}},
      {"num_key_value_heads", "3", {"'num_key_value_heads'", "3", "4 attention heads"}},
      {"num_key_value_heads", "8", {"'num_key_value_heads'", "8", "4 attention heads"}},
      {"num_attention_heads", "3", {"'num_key_value_heads'", "3 attention heads"}},
      {"hidden_size", "10", {"'num_attention_heads'", "hidden_size 10"}},
      {"hidden_size", "12", {"'head_dim'", "even"}},
      {"head_dim", "5", {"'head_dim'", "even"}},
      {"num_experts", "65537", {"'num_experts'", "65537", "65536"}},
      {"num_hidden_layers", "4097", {"'num_hidden_layers'", "4096"}},
      {"hidden_act", "\"gelu\"", {"'hidden_act'", "'gelu'", "'silu'"}},
      {"hidden_act", "7", {"'hidden_act'", "not a text"}},
      {"attention_bias", "1", {"'attention_bias'", "true or false"}},
      {"mlp_bias", "true", {"'mlp_bias'", "biases"}},
      {"qkv_bias", "true", {"'qkv_bias'", "biases"}},
      {"quantization_config", "{\"quant_method\": \"gptq\"}", {"'quantization_config'", "bf16"}},
      {"quantization_config", "{\"quant_method\": \"mxfp4\"}", {"'quantization_config'", "mxfp4"}},
      {"quantization_config", "{\"quant_method\": \"fp8\"}", {"weight_block_size"}},
      {"quantization_config",
       "{\"quant_method\": \"fp8\", \"weight_block_size\": [128]}",
       {"weight_block_size", "[128]"}},
      {"quantization_config",
       "{\"quant_method\": \"fp8\", \"weight_block_size\": [0, 128]}",
       {"weight_block_size", "[0,128]"}},
      {"rope_scaling",
       "{\"type\": \"longrope\", \"factor\": 2}",
       {"'rope_scaling.type'", "longrope"}},
      {"rope_scaling",
       "{\"type\": \"yarn\", \"factor\": 0}",
       {"'rope_scaling.factor'", "above zero"}},
      {"partial_rotary_factor", "1.5", {"'partial_rotary_factor'", "2 dimensions", "3"}},
      {"partial_rotary_factor", "0.5", {"'partial_rotary_factor'", "1 would be rotated"}},
      {"scoring_func", "\"sigmoid\"", {"'scoring_func'", "olmoe", "'softmax'"}},
      {"rope_scaling", "\"yarn\"", {"'rope_scaling'", "not an object"}},
      {"rope_scaling", "{\"rope_type\": 3}", {"'rope_scaling.rope_type'", "not a text"}},
      {"rope_parameters",
       "{\"rope_type\": \"dynamic\"}",
       {"'rope_parameters.rope_type'", "'dynamic'"}},
      {"rope_parameters", "[1]", {"'rope_parameters'", "not an object"}},
      {"rope_parameters", "{\"rope_theta\": -5}", {"'rope_parameters.rope_theta'", "above zero"}},
      {"rope_theta", "0", {"'rope_theta'", "above zero"}},
      {"rope_theta", "\"10000\"", {"'rope_theta'", "above zero"}},
      {"rms_norm_eps", "-1e-5", {"'rms_norm_eps'", "above zero"}},
      {"rms_norm_eps", "true", {"'rms_norm_eps'", "above zero"}},
      {"clip_qkv", "0.0", {"'clip_qkv'", "above zero"}},
      {"norm_topk_prob", "\"yes\"", {"'norm_topk_prob'", "true or false"}},
      {"tie_word_embeddings", "0", {"'tie_word_embeddings'", "true or false"}},
      {"model_type", "3", {"'model_type'", "not a text"}},
      {"architectures", "\"OlmoeForCausalLM\"", {"'architectures'"}},
      {"architectures", "[7]", {"'architectures'"}},
  };
  for (const Case& bad : cases) {
    nlohmann::json config = test::tiny_olmoe();
    const auto value = nlohmann::json::parse(bad.value, nullptr, false);
    config[bad.key] = value.is_discarded() ? nlohmann::json(bad.value) : value;
    expect_refused(config.dump(), bad.parts);
  }
}

TEST(BadConfig, AnUnknownModelListsTheKnownOnes) {
  nlohmann::json config = test::tiny_olmoe();
  config["model_type"] = "gpt2";
  config["architectures"] = {"GPT2LMHeadModel"};
  std::vector<std::string> parts{"'model_type'", "'gpt2'", "GPT2LMHeadModel"};
  for (const Architecture& row : architectures()) parts.emplace_back(row.name);
  expect_refused(config.dump(), parts);
  expect_refused("{}", parts = {"'model_type'", "olmoe", "mixtral", "llama"});
}

struct FamilyCase {
  nlohmann::json config;
  const char* key;
  const char* value;
  std::vector<std::string> parts;
};

TEST(BadConfig, TableOfTheOtherFamilies) {
  const auto qwen = test::tiny_qwen2_moe(), deepseek = test::tiny_deepseek_v3();
  auto windows = test::tiny_mixtral();
  windows["sliding_window"] = 4;
  const std::vector<FamilyCase> cases{
      {qwen, "decoder_sparse_step", "0", {"'decoder_sparse_step'", "0"}},
      {qwen, "mlp_only_layers", "3", {"'mlp_only_layers'", "list of layers"}},
      {qwen, "mlp_only_layers", "[0.5]", {"'mlp_only_layers'", "list of layers"}},
      {qwen, "shared_expert_intermediate_size", "-1", {"'shared_expert_intermediate_size'"}},
      {qwen, "use_sliding_window", "null_", {"'use_sliding_window'"}},
      {qwen, "qkv_bias", "1", {"'qkv_bias'", "true or false"}},
      {windows, "sliding_window", "-1", {"'sliding_window'", "-1"}},
      {windows, "layer_types", "[]", {"'layer_types'", "each layer"}},
      {windows, "sliding_window", "0", {"'sliding_window'", "0"}},
      {windows, "use_sliding_window", "false", {"'use_sliding_window'", "mixtral"}},
      {windows, "layer_types", "[\"full_attention\"]", {"'layer_types'", "layer 0"}},
      {windows, "layer_types", "[\"chunked\"]", {"'layer_types'", "chunked"}},
      {windows, "mlp_bias", "true", {"'mlp_bias'", "mixtral"}},
      {deepseek, "kv_lora_rank", "null", {"'kv_lora_rank'", "missing"}},
      {deepseek, "q_lora_rank", "0", {"'q_lora_rank'", "0"}},
      {deepseek, "qk_rope_head_dim", "3", {"'qk_rope_head_dim'", "even"}},
      {deepseek, "v_head_dim", "2147483648", {"'qk_nope_head_dim'"}},
      {deepseek, "n_group", "3", {"'n_group'", "3", "4 experts"}},
      {deepseek, "n_group", "4", {"'n_group'", "no two best"}},
      {deepseek,
       "rope_scaling",
       "{\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4}",
       {"'rope_scaling.low_freq_factor'"}},
      {deepseek,
       "rope_scaling",
       "{\"rope_type\": \"llama3\"}",
       {"'rope_scaling.factor'", "missing"}},
      {deepseek, "topk_method", "\"greedy\"", {"'topk_method'", "'noaux_tc'"}},
      {deepseek, "topk_group", "3", {"'topk_group'", "too many"}},
      {deepseek, "num_experts_per_tok", "3", {"'topk_group'", "too few"}},
      {deepseek, "n_shared_experts", "2147483648", {"'n_shared_experts'", "too many"}},
      {deepseek, "first_k_dense_replace", "-1", {"'first_k_dense_replace'"}},
      {deepseek, "moe_layer_freq", "[0, 1]", {"'moe_layer_freq'"}},
      {deepseek, "scoring_func", "\"softmax\"", {"'scoring_func'", "'sigmoid'"}},
      {deepseek, "routed_scaling_factor", "0", {"'routed_scaling_factor'", "above zero"}},
  };
  for (const FamilyCase& bad : cases) {
    nlohmann::json config = bad.config;
    const auto value = nlohmann::json::parse(bad.value, nullptr, false);
    config[bad.key] = value.is_discarded() ? nlohmann::json(bad.value) : value;
    expect_refused(config.dump(), bad.parts);
  }
}

/// Each size is possible by itself, but not all of them together.
TEST(BadConfig, SizesWhoseProductsDoNotFit) {
  nlohmann::json wide = test::tiny_llama();
  wide["num_attention_heads"] = 1 << 30;
  wide["num_key_value_heads"] = 1 << 30;
  wide["head_dim"] = 1 << 30;
  expect_refused(wide.dump(), {"'head_dim'"});
  nlohmann::json crowd = test::tiny_olmoe();
  crowd["num_hidden_layers"] = 4096;
  crowd["num_experts"] = 65536;
  expect_refused(crowd.dump(), {"'num_experts'", "4096 layers"});
}

TEST(ParameterCount, IsAnErrorWhereItDoesNotFit) {
  nlohmann::json config = test::tiny_llama();
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size"})
    config[key] = Index{1} << 31;
  EXPECT_THROW(parameter_count(describe_model(config.dump(), kFile)), Error);
}

}  // namespace
}  // namespace aq
