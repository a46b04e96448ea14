/// Every key of config.json is read, known to be without meaning, or refused by its name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "configs.h"
#include "test_paths.h"

namespace aq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Model describe(const json& config, const Keys& assume_unused = {}) {
  return describe_model(config.dump(), "config.json", assume_unused);
}

std::string refusal(const json& config, const Keys& assume_unused = {}) {
  try {
    describe(config, assume_unused);
    return "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), assume_unused.empty() ? ErrorKind::input : ErrorKind::usage);
    return error.what();
  }
}

/// Everything that the forward pass takes from config.json.
std::string facts(const Model& model) {
  std::string text =
      str(model.vocabulary, " ", model.max_positions, " ", model.norm_eps, " ", model.tied_head,
          " ", static_cast<int>(model.encoding), " ", model.block_rows, " ", model.block_columns);
  for (const ExpectedTensor& tensor : expected_tensors(model)) {
    text += "\n" + tensor.name;
    for (const Index extent : tensor.shape) text += str(" ", extent);
  }
  for (const LayerSpec& layer : model.layers) {
    const AttentionSpec& a = layer.attention;
    const RopeSpec& r = a.rope;
    text += str("\n", a.heads, " ", a.kv_heads, " ", a.head_dim, " ", a.value_dim, " ", a.scale,
                " ", a.norm_eps, " ", static_cast<int>(a.qk_norm), " ", a.clip_qkv.value_or(0), " ",
                a.sliding_window, " ", r.theta, " ", r.begin, " ", r.dims, " ", r.interleaved, " ",
                r.magnitude, " ", static_cast<int>(r.scaling), " ", r.factor, " ",
                r.original_positions, " ", r.low_frequency_factor, " ", r.high_frequency_factor,
                " ", r.beta_fast, " ", r.beta_slow, " ", r.truncate);
    const GatedActivation& g = layer.mlp(0).activation;
    text += str(" ", g.clamped, " ", g.limit, " ", g.alpha);
    if (!layer.moe) continue;
    const RouterSpec& m = layer.moe->routing;
    text += str(" ", m.experts, " ", m.top_k, " ", static_cast<int>(m.score), " ", m.renormalize,
                " ", m.scale, " ", m.groups, " ", m.kept_groups, " ",
                first_mlp(layer, MlpKind::shared) != nullptr);
  }
  return text;
}

/// The published configurations, with few layers and experts so that they are quick to read.
std::vector<std::pair<std::string, json>> published() {
  std::vector<std::pair<std::string, json>> all;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(AQ_TEST_DATA) / "configs")) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    json config = json::parse(file);
    config["num_hidden_layers"] = 4;
    while (config.contains("layer_types") && config["layer_types"].size() > 4)
      config["layer_types"].erase(4);
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"})
      if (config.contains(key)) config[key] = 16;
    if (config.contains("max_window_layers")) config["max_window_layers"] = 2;
    all.emplace_back(entry.path().stem().string(), std::move(config));
  }
  return all;
}

json other_value(const json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number_integer()) return value == 0 ? 1 : 2 * value.get<Index>();
  if (value.is_number()) return value == 0 ? 0.5 : 2 * value.get<double>();
  if (value.is_string()) return value.get<std::string>() + "x";
  if (value.is_null()) return 7;
  json longer = value;
  longer.push_back(value.empty() ? json(0) : value.front());
  return longer;
}

/// Keys whose value may be any one, after the code of transformers and of the models' authors.
bool may_be_anything(const std::string& model, const std::string& key) {
  static const std::set<std::string> everywhere{"architectures",
                                                "model_type",
                                                "attention_dropout",
                                                "aux_loss_alpha",
                                                "bos_token_id",
                                                "eos_token_id",
                                                "ep_size",
                                                "initializer_range",
                                                "num_nextn_predict_layers",
                                                "output_router_logits",
                                                "pad_token_id",
                                                "pretraining_tp",
                                                "router_aux_loss_coef",
                                                "router_jitter_noise",
                                                "seq_aux",
                                                "torch_dtype",
                                                "dtype",
                                                "transformers_version",
                                                "use_cache",
                                                "auto_map.AutoConfig",
                                                "auto_map.AutoModel",
                                                "auto_map.AutoModelForCausalLM",
                                                "quantization_config.activation_scheme",
                                                "quantization_config.modules_to_not_convert"};
  if (everywhere.contains(key)) return true;
  if (key == "use_sliding_window" && model.starts_with("qwen3-"))
    return true;                  // sliding_window is null
  if (model.starts_with("qwen"))  // no window; every layer of the others has experts
    return key == "sliding_window" || key == "max_window_layers" ||
           (key == "intermediate_size" && model != "qwen2-7b" && model != "qwen3-8b");
  if (model == "deepseek-v2-lite" && (key == "n_group" || key == "topk_group"))
    return true;  // topk_method greedy
  if (model == "gpt-oss-20b" || model == "gpt-oss-120b") return key == "initial_context_length";
  return key == "num_key_value_heads" &&  // heads of latent attention share one latent
         (model.starts_with("deepseek-v") || model == "kimi-k2");
}

/// One changed key at a time: the model is another one, or the key is refused, or it is one of
/// those that mean nothing.
TEST(KnownKeys, EveryKeyOfPublishedConfigurationsCounts) {
  Index keys = 0;
  const auto check = [&](const std::string& name, const std::string& before, const json& config,
                         const std::string& key) {
    ++keys;
    std::string after = "refused";
    try {
      after = facts(describe(config));
    } catch (const Error& error) {
      EXPECT_THAT(error.what(),
                  testing::AnyOf(HasSubstr("config.json: key '"), HasSubstr("config.json: '")))
          << name;
    }
    EXPECT_EQ(after == before, may_be_anything(name, key)) << name << ": " << key;
  };
  for (const auto& [name, config] : published()) {
    const std::string before = facts(describe(config));
    for (const auto& [key, value] : config.items()) {
      json changed = config;
      if (!value.is_object()) {
        changed[key] = other_value(value);
        check(name, before, changed, key);
        continue;
      }
      for (const auto& [inner, inside] : value.items()) {
        changed = config;
        changed[key][inner] = other_value(inside);
        check(name, before, changed, str(key, ".", inner));
      }
    }
  }
  EXPECT_GT(keys, 400);
}

/// Keys of relatives of the families that change the forward pass, with values that look neutral
/// where some are.
TEST(KnownKeys, OtherMathematicsIsRefusedByName) {
  const json keys = json::parse(R"({
    "attention_multiplier": 1.0, "query_pre_attn_scalar": 1, "scale_depth": 1, "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5, "logits_scaling": 2, "logit_scale": 0.0625, "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0, "logits_soft_cap": 30.0, "rotary_dim": 8, "rotary_pct": 0.5,
    "rotary_emb_base": 5e5, "rope_local_base_freq": 10000.0, "rope_theta_local": 10000.0, "rope_ratio": 2,
    "no_rope_layers": [1, 0], "no_rope_layer_interval": 4, "nope_layer_interval": 2, "rope_interleave": 1,
    "sliding_window_pattern": 2, "attention_chunk_size": 8, "attn_temperature_tuning": true,
    "attn_scale": 0.1, "floor_scale": 8192, "hidden_activation": "gelu_pytorch_tanh",
    "mlp_layer_types": ["dense", "sparse"], "layer_types": ["conv", "conv", "conv", "conv"],
    "use_bidirectional_attention": true, "is_encoder_decoder": true, "per_layer_config": {"0": {"head_dim": 4}},
    "parallel_attn": true, "mup_width_scale": 0.5, "swiglu_limits": [0.5], "moe_router_logit_softcapping": 1,
    "zero_expert_num": 4, "linear_attn_config": {}, "index_topk": 4, "dual_chunk_attention_config": {},
    "use_logn_attn": true, "attention_sink": true, "head_dim_v": 8, "qk_norm_after_rope": false,
    "a.b": 0, "": 0})");
  std::set<std::string> types;
  for (const auto& [name, config] : published()) {
    if (!types.insert(config["model_type"]).second) continue;
    for (const auto& [key, value] : keys.items()) {
      json changed = config;
      changed[key] = value;
      EXPECT_THAT(refusal(changed), HasSubstr("'" + key + "'")) << name;
      if (!value.is_array() && key != "rope_interleave") {
        EXPECT_EQ(facts(describe(changed, {key})), facts(describe(config))) << key;
      }
    }
    for (const char* section : {"rope_scaling", "rope_parameters"}) {
      if (config.contains("rope_scaling") && config["rope_scaling"].is_object() &&
          section == std::string("rope_parameters"))
        continue;
      for (const char* key :
           {"full_attention", "llama_4_scaling_beta", "long_factor", "finetuned"}) {
        json changed = config;
        changed[section][key] = nullptr;  // inside, null may stand for anything
        EXPECT_THAT(refusal(changed), HasSubstr(str("'", section, ".", key, "'"))) << name;
      }
    }
  }
}

TEST(KnownKeys, NeutralValuesAndNullPass) {
  const std::string before = facts(describe(test::tiny_olmoe()));
  const json keys = json::parse(R"({
    "embedding_multiplier": 1.0, "residual_multiplier": 1, "logits_scaling": 1.0, "use_qk_norm": true,
    "use_sliding_window": false, "norm_topk_prob": false, "layer_types": ["full_attention"],
    "final_logit_softcapping": null, "attention_multiplier": null, "_name_or_path": "x/y",
    "image_token_id": 7, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<p>", "unk_token": "<u>",
    "max_length": 20, "rope_scaling": {}, "num_local_experts": 3})");
  for (const auto& [key, value] : keys.items()) {
    json config = test::tiny_olmoe();
    config[key] = value;
    EXPECT_EQ(facts(describe(config)), before) << key;
  }
}

TEST(KnownKeys, AllUnknownOnesAreNamedAtOnce) {
  json config = test::tiny_olmoe();
  config["one"] = 1;
  config["two"] = std::string(1000, 'x');
  const std::string text = refusal(config);
  EXPECT_THAT(text, testing::AllOf(HasSubstr("'one' (1)"), HasSubstr("'two' (\"xxx"),
                                   HasSubstr("config.json"), HasSubstr("--assume-unused")));
  EXPECT_LT(text.size(), 400u);
  for (int i = 0; i < 1000; ++i) config[str("key", i)] = i;
  EXPECT_THAT(refusal(config), HasSubstr("998 more"));
}

TEST(KnownKeys, AssumeUnusedTakesUnknownKeysOnly) {
  json config = test::tiny_olmoe();
  config["strange"] = 1;
  config["rope_scaling"] = {{"strange", 2}};
  const Keys both{"strange", "rope_scaling.strange"};
  EXPECT_EQ(facts(describe(config, both)), facts(describe(test::tiny_olmoe())));
  EXPECT_THAT(refusal(test::tiny_olmoe(), {"strange"}), HasSubstr("--assume-unused strange"));
  EXPECT_THAT(refusal(test::tiny_olmoe(), {"hidden_size"}), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal(test::tiny_olmoe(), {"use_cache"}), HasSubstr("use_cache"));
}

/// Two names of one value must not say two things.
TEST(KnownKeys, ContradictionsAreRefused) {
  json config = test::tiny_olmoe();
  config["num_local_experts"] = 4;
  EXPECT_THAT(refusal(config), testing::AllOf(HasSubstr("'num_local_experts' is 4"),
                                              HasSubstr("'num_experts' is 3")));
  const json yarn{{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}};
  config = test::tiny_llama();
  config["rope_parameters"] = {{"rope_type", "default"}};
  config["rope_scaling"] = yarn;
  EXPECT_THAT(refusal(config), HasSubstr("'rope_parameters'"));
  config["rope_parameters"] = yarn;
  EXPECT_EQ(describe(config).layers[0].attention.rope.factor, 4);
  config["rope_scaling"]["type"] = config["rope_parameters"]["type"] = "linear";
  EXPECT_THAT(refusal(config), HasSubstr("'rope_scaling.type'"));
  config = test::tiny_deepseek_v3();
  for (const char* key : {"rope_interleave", "norm_topk_prob"}) {
    json off = config;
    off[key] = nullptr;
    EXPECT_THAT(refusal(off), HasSubstr(key)) << "null is false there, absent is true";
  }
}

TEST(StandardJson, IsReadWhereTheValueIsNotNeeded) {
  const std::string text = test::tiny_olmoe().dump();
  const auto with = [&](const std::string& entry) { return str("{", entry, ",", text.substr(1)); };
  for (const char* entry : {"\"initializer_range\": NaN", "\"time_step_limit\": [0.0, Infinity]",
                            "\"mask_value\": -Infinity"})
    EXPECT_EQ(facts(describe_model(with(entry), "c")), facts(describe(test::tiny_olmoe())));
  for (const char* entry :
       {"\"rms_norm_eps\": NaN", "\"clip_qkv\": Infinity", "\"rope_theta\": -Infinity",
        "\"strange\": NaN", "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": Infinity}"})
    EXPECT_THROW(describe_model(with(entry), "c"), Error) << entry;
}

}  // namespace
}  // namespace aq
