/// Facts of the forward pass that config.json decides: windows, rotary embeddings, dense layers,
/// routers, storage.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "aq/core/error.h"
#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "configs.h"

namespace aq {
namespace {

using nlohmann::json;

Model describe(const json& config) {
  return describe_model(config.dump(), "config.json");
}
RopeSpec rope_of(const json& config) {
  return describe(config).layers[0].attention.rope;
}
std::vector<Index> windows_of(const json& config) {
  std::vector<Index> windows;
  for (const LayerSpec& layer : describe(config).layers)
    windows.push_back(layer.attention.sliding_window);
  return windows;
}
/// One letter a layer: dense or MoE.
std::string kinds_of(const json& config) {
  std::string kinds;
  for (const LayerSpec& layer : describe(config).layers) kinds += layer.moe ? 'm' : 'd';
  return kinds;
}

/// What transformers' configuration classes make of the keys.
TEST(SlidingWindow, IsOfTheLayersThatTheFamilySays) {
  const json all = json::parse(R"([
    [{"model_type": "mixtral", "sliding_window": 64}, [64, 64, 64, 64]],
    [{"model_type": "mixtral", "sliding_window": null}, [0, 0, 0, 0]],
    [{"model_type": "mixtral"}, [0, 0, 0, 0]],
    [{"model_type": "gpt_oss", "sliding_window": 64}, [64, 0, 64, 0]],
    [{"model_type": "gpt_oss"}, [128, 0, 128, 0]],
    [{"model_type": "gpt_oss", "layer_types": ["f", "s", "s", "f"]}, [0, 128, 128, 0]],
    [{"model_type": "gpt_oss", "sliding_window": null}, "sliding_window"],
    [{"model_type": "qwen3_moe", "sliding_window": 64, "max_window_layers": 2}, [0, 0, 0, 0]],
    [{"model_type": "qwen3_moe", "sliding_window": 64, "max_window_layers": 2, "use_sliding_window": true},
     [64, 64, 64, 64]],
    [{"model_type": "qwen3_moe", "use_sliding_window": true}, [4096, 4096, 4096, 4096]],
    [{"model_type": "qwen3_moe", "use_sliding_window": true, "sliding_window": null}, [0, 0, 0, 0]],
    [{"model_type": "qwen3_moe", "use_sliding_window": true, "layer_types": ["s", "f", "s", "f"]}, "layer_types"],
    [{"model_type": "qwen2", "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 1}, [0, 0, 0, 0]],
    [{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 1}, [0, 64, 64, 64]],
    [{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 64}, [0, 0, 0, 0]],
    [{"model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 3}, [0, 0, 0, 4096]],
    [{"model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 3, "layer_types": ["s", "f", "s", "f"]},
     [4096, 0, 4096, 0]],
    [{"model_type": "qwen3", "layer_types": ["s", "f", "s", "f"]}, "layer_types"],
    [{"model_type": "qwen2_moe", "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2}, [64, 0, 0, 0]],
    [{"model_type": "qwen2_moe", "use_sliding_window": true}, [4096, 0, 4096, 0]],
    [{"model_type": "qwen2_moe", "sliding_window": 0}, [0, 0, 0, 0]],
    [{"model_type": "llama", "sliding_window": 64}, "sliding_window"],
    [{"model_type": "llama", "sliding_window": null, "use_sliding_window": false}, [0, 0, 0, 0]],
    [{"model_type": "llama", "layer_types": ["f", "f", "f", "s"]}, "layer_types"],
    [{"model_type": "llama", "layer_types": ["f", "f", "f"]}, "layer_types"]])");
  json sizes = test::tiny_llama();
  sizes["num_hidden_layers"] = 4;
  for (const char* key : {"num_experts", "num_experts_per_tok", "moe_intermediate_size"})
    sizes[key] = 2;
  sizes["shared_expert_intermediate_size"] = 5;
  for (const json& one : all) {
    json config = sizes;
    config.update(one[0]);
    const std::string type = config["model_type"];
    if (!type.ends_with("moe"))
      for (const char* key : {"moe_intermediate_size", "shared_expert_intermediate_size"})
        config.erase(key);
    if (type == "llama" || type == "qwen2" || type == "qwen3")
      for (const char* key : {"num_experts", "num_experts_per_tok"}) config.erase(key);
    if (type == "qwen3_moe") config.erase("shared_expert_intermediate_size");
    if (config.contains("layer_types"))
      for (json& letter : config["layer_types"])
        letter = letter == "s" ? "sliding_attention" : "full_attention";
    try {
      EXPECT_EQ(json(windows_of(config)), one[1]) << one.dump();
    } catch (const Error& error) {
      ASSERT_TRUE(one[1].is_string()) << one.dump() << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(str("'", one[1].get<std::string>(), "'")));
    }
  }
}

TEST(DenseLayers, FollowTheRuleOfTheFamily) {
  json qwen = test::tiny_qwen2_moe();
  qwen["num_hidden_layers"] = 6;
  EXPECT_EQ(kinds_of(qwen), "dmdmdm");
  qwen["mlp_only_layers"] = {1};
  EXPECT_EQ(kinds_of(qwen), "dddmdm");
  qwen.erase("decoder_sparse_step");
  EXPECT_EQ(kinds_of(qwen), "mdmmmm");
  json deepseek = test::tiny_deepseek_v3();
  deepseek["num_hidden_layers"] = 5;
  deepseek["first_k_dense_replace"] = 1;
  EXPECT_EQ(kinds_of(deepseek), "dmmmm");
  deepseek["moe_layer_freq"] = 2;
  EXPECT_EQ(kinds_of(deepseek), "ddmdm");
  EXPECT_EQ(describe(deepseek).moe_layers().size(), 2u);
}

/// Values of the published models: DeepSeek-V2-Lite, V3, gpt-oss.
TEST(Yarn, ScalesTheScoresAndTheAngles) {
  json config = test::tiny_deepseek_v3();
  const double plain = 1 / std::sqrt(5.0);
  EXPECT_DOUBLE_EQ(describe(config).layers[0].attention.scale, plain);
  config["rope_scaling"] = {{"type", "yarn"},  {"factor", 40},
                            {"mscale", 0.707}, {"mscale_all_dim", 0.707},
                            {"beta_fast", 32}, {"original_max_position_embeddings", 4096}};
  EXPECT_NEAR(describe(config).layers[0].attention.scale / plain, 1.5896, 1e-4);
  EXPECT_DOUBLE_EQ(rope_of(config).magnitude, 1);
  config["rope_scaling"]["mscale"] = 1.0;
  config["rope_scaling"]["mscale_all_dim"] = 1.0;
  EXPECT_NEAR(describe(config).layers[0].attention.scale / plain, 1.8738, 1e-4);
  config["rope_scaling"].erase("mscale");
  EXPECT_NEAR(rope_of(config).magnitude, 0.1 * std::log(40.0) + 1, 1e-12);
  config["rope_scaling"]["attention_factor"] = 0.5;
  EXPECT_DOUBLE_EQ(rope_of(config).magnitude, 0.5);

  json oss = test::tiny_llama();
  oss["rope_parameters"] = {{"rope_type", "yarn"},  {"factor", 32.0},
                            {"rope_theta", 150000}, {"truncate", false},
                            {"beta_slow", 2},       {"original_max_position_embeddings", 4096}};
  const RopeSpec rope = rope_of(oss);
  EXPECT_NEAR(rope.magnitude, 1.3466, 1e-4);
  EXPECT_EQ(rope.scaling, RopeScaling::yarn);
  EXPECT_EQ(rope.factor, 32);
  EXPECT_EQ(rope.theta, 150000);
  EXPECT_EQ(rope.original_positions, 4096);
  EXPECT_EQ(rope.beta_fast, 32);
  EXPECT_EQ(rope.beta_slow, 2);
  EXPECT_FALSE(rope.truncate);
  EXPECT_DOUBLE_EQ(describe(oss).layers[0].attention.scale, 1 / std::sqrt(6.0))
      << "only latent attention scales the scores";
}

TEST(Rope, OtherScalingsAndPlaces) {
  json config = test::tiny_llama();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.5},
                            {"high_freq_factor", 4.5},
                            {"original_max_position_embeddings", 8192}};
  RopeSpec rope = rope_of(config);
  EXPECT_EQ(rope.scaling, RopeScaling::llama3);
  EXPECT_EQ(rope.low_frequency_factor, 1.5);
  EXPECT_EQ(rope.high_frequency_factor, 4.5);
  EXPECT_EQ(rope.original_positions, 8192);
  EXPECT_EQ(rope.magnitude, 1);
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 3}};
  EXPECT_EQ(rope_of(config).scaling, RopeScaling::linear);
  EXPECT_EQ(rope_of(config).factor, 3);
  EXPECT_EQ(rope_of(config).dims, 6);
  EXPECT_FALSE(rope_of(config).interleaved);

  rope = rope_of(test::tiny_deepseek_v3());
  EXPECT_EQ(rope.begin, 3);
  EXPECT_EQ(rope.dims, 2);
  EXPECT_TRUE(rope.interleaved);

  json glm = test::tiny_glm4_moe();
  glm["head_dim"] = 8;
  EXPECT_EQ(rope_of(glm).dims, 4) << "half of a head without a key";
  glm["partial_rotary_factor"] = 1.0;
  EXPECT_EQ(rope_of(glm).dims, 8);
  glm["rope_parameters"] = {{"rope_theta", 5.0}, {"partial_rotary_factor", 0.25}};
  EXPECT_EQ(rope_of(glm).dims, 2) << "the newer place wins";
}

TEST(Router, FactsOfTheFamilies) {
  const Model v3 = describe(test::tiny_deepseek_v3());
  const RouterSpec& routing = v3.layers[0].moe->routing;
  EXPECT_EQ(routing.score, RouterScore::sigmoid);
  EXPECT_TRUE(routing.renormalize);
  EXPECT_EQ(routing.scale, 2.5);
  EXPECT_EQ(routing.groups, 2);
  EXPECT_EQ(routing.kept_groups, 1);
  EXPECT_EQ(routing.group_score, GroupScore::two_largest);
  EXPECT_EQ(first_mlp(v3.layers[0], MlpKind::shared)->gate.rows, 12);
  EXPECT_FALSE(first_mlp(v3.layers[0], MlpKind::shared)->output_gate);

  json v2 = test::tiny_deepseek_v3();
  v2["model_type"] = "deepseek_v2";
  v2["topk_method"] = "group_limited_greedy";
  v2["q_lora_rank"] = nullptr;
  const LayerSpec layer = describe(v2).layers[0];
  EXPECT_EQ(layer.moe->routing.groups, 2);
  EXPECT_EQ(layer.moe->routing.group_score, GroupScore::largest);
  EXPECT_FALSE(layer.moe->routing.renormalize);
  EXPECT_EQ(layer.moe->routing.scale, 1);
  EXPECT_FALSE(layer.latent->q_a);
  EXPECT_EQ(layer.latent->q.name, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(layer.latent->rope_dim(), 2);
  v2["topk_method"] = "greedy";
  EXPECT_EQ(describe(v2).layers[0].moe->routing.groups, 1) << "greedy has no groups";
  v2["n_shared_experts"] = nullptr;
  EXPECT_EQ(first_mlp(describe(v2).layers[0], MlpKind::shared), nullptr);
}

TEST(Biases, AreOfTheLinearsThatTheFamilySays) {
  json llama = test::tiny_llama();
  const auto biases = [](const json& config) {
    std::string text;
    const Model model = describe(config);
    for (const LinearSpec* linear : all_linears(model))
      if (linear->layer == 0) text += linear->bias ? '1' : '0';
    return text;
  };
  EXPECT_EQ(biases(llama), "0000000");
  llama["attention_bias"] = true;
  EXPECT_EQ(biases(llama), "1111000");
  llama["mlp_bias"] = true;
  EXPECT_EQ(biases(llama), "1111111");
  llama["model_type"] = "qwen2";
  llama.erase("attention_bias");
  llama.erase("mlp_bias");
  EXPECT_EQ(biases(llama), "1110000");
  json v3 = test::tiny_deepseek_v3();
  v3["attention_bias"] = true;
  EXPECT_EQ(biases(v3).substr(0, 6), "110010") << "q_a, kv_a, and o; not q_b and kv_b";
}

TEST(Storage, PartsOfFusedTensors) {
  json config = test::tiny_mixtral();
  config["model_type"] = "gpt_oss";
  const Model model = describe(config);
  const MlpSpec& expert = model.layers[0].mlp(2);
  const StoredPart up = stored_weight(model, expert.up);
  EXPECT_EQ(up.tensor, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(up.shape(), (std::vector<Index>{3, 8, 12}));
  EXPECT_EQ(std::tuple(up.slice, up.first, up.step, up.transposed), std::tuple(2, 1, 2, true));
  EXPECT_EQ(stored_weight(model, expert.gate).first, 0);
  const StoredPart down = stored_weight(model, expert.down);
  EXPECT_EQ(down.shape(), (std::vector<Index>{3, 6, 8}));
  EXPECT_EQ(down.step, 1);
  const StoredPart bias = stored_bias(model, expert.up);
  EXPECT_EQ(bias.tensor, "model.layers.0.mlp.experts.gate_up_proj_bias");
  EXPECT_EQ(bias.shape(), (std::vector<Index>{3, 12}));
}

/// Any family may come with 3-D tensors in the order of transformers 5: gate, then up.
TEST(Storage, FusedFormIsSeenInTheTensors) {
  const json config = test::tiny_olmoe();
  const auto describe_with = [&](const TensorShapes& tensors) {
    return describe_model(*find_architecture("olmoe"), config.dump(), "c", tensors);
  };
  EXPECT_FALSE(describe(config).fused);
  const std::string single = "model.layers.0.mlp.experts.0.down_proj.weight";
  const std::string fused = "model.layers.0.mlp.experts.down_proj";
  EXPECT_FALSE(describe_with({{single, {8, 6}}}).fused);
  const Model model = describe_with({{fused, {3, 8, 6}}});
  ASSERT_TRUE(model.fused);
  const StoredPart up = stored_weight(model, model.layers[0].mlp(1).up);
  EXPECT_EQ(up.shape(), (std::vector<Index>{3, 12, 8}));
  EXPECT_EQ(std::tuple(up.slice, up.first, up.step, up.transposed), std::tuple(1, 6, 1, false));
}

TEST(Storage, EncodingsAreThoseOfTheConfiguration) {
  json v3 = test::tiny_deepseek_v3();
  v3["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {4, 3}}};
  const Model model = describe(v3);
  EXPECT_EQ(model.encoding, SourceEncoding::fp8_blocks);
  std::map<std::string, std::vector<Index>> scales;
  for (const ExpectedTensor& tensor : expected_tensors(model))
    if (tensor.parameters == 0) scales[tensor.name] = tensor.shape;
  EXPECT_EQ(scales.size(), 5u + 3 * 5);
  EXPECT_EQ(scales.at("model.layers.0.self_attn.q_b_proj.weight_scale_inv"),
            (std::vector<Index>{5, 2}));
  EXPECT_EQ(parameter_count(model), parameter_count(describe(test::tiny_deepseek_v3())));
  json oss = test::tiny_mixtral();
  oss["model_type"] = "gpt_oss";
  oss["quantization_config"] = {{"quant_method", "mxfp4"}};
  EXPECT_THROW(describe(oss), Error) << "rows of 8 are no groups of 32";
}

}  // namespace
}  // namespace aq
