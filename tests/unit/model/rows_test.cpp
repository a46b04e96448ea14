#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "aq/core/error.h"
#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "configs.h"

namespace aq {
namespace {

/// A small configuration of each family; what published checkpoints hold is in
/// published_sizes_test.cpp.
const std::map<std::string, nlohmann::json>& families() {
  static const std::map<std::string, nlohmann::json> all{{"olmoe", test::tiny_olmoe()},
                                                         {"mixtral", test::tiny_mixtral()},
                                                         {"llama", test::tiny_llama()},
                                                         {"qwen2_moe", test::tiny_qwen2_moe()},
                                                         {"deepseek_v3", test::tiny_deepseek_v3()}};
  return all;
}

Model describe(const nlohmann::json& config) {
  return describe_model(config.dump(), "config.json");
}

/// "name extents..." of each tensor.
std::multiset<std::string> lines_of(const Model& model) {
  std::multiset<std::string> lines;
  for (const ExpectedTensor& tensor : expected_tensors(model)) {
    std::string line = tensor.name;
    for (const Index extent : tensor.shape) line += str(" ", extent);
    lines.insert(line);
  }
  return lines;
}

TEST(Families, ATiedHeadNeedsNoTensor) {
  for (const auto& [name, config] : families()) {
    const Model model = describe(config);
    EXPECT_EQ(model.architecture, name);
    EXPECT_EQ(model.head_tensor(), "lm_head.weight");
    nlohmann::json tied = config;
    tied["tie_word_embeddings"] = true;
    auto lines = lines_of(model);
    EXPECT_EQ(lines.erase("lm_head.weight 11 8"), 1U);
    EXPECT_EQ(lines_of(describe(tied)), lines) << name;
    EXPECT_EQ(describe(tied).head_tensor(), "model.embed_tokens.weight");
  }
}

/// Weights of linears in order of use, and each with a role, layer and expert that fit its name.
TEST(Families, ListEveryLinearOnceInOrderOfUse) {
  for (const auto& [name, config] : families()) {
    const Model model = describe(config);
    std::multiset<std::string> weights;
    std::vector<Index> layers;
    for (const LinearSpec* linear : all_linears(model)) {
      weights.insert(str(linear->weight_name(), " ", linear->rows, " ", linear->columns));
      if (linear->role == Role::head) {
        EXPECT_EQ(linear->layer, -1);
        continue;
      }
      EXPECT_TRUE(linear->name.starts_with(str("model.layers.", linear->layer, ".")));
      EXPECT_EQ(linear->expert >= 0,
                linear->name.find(str("experts.", linear->expert, ".")) != std::string::npos);
      layers.push_back(linear->layer);
    }
    auto expected = lines_of(model);
    std::erase_if(expected, [](const std::string& line) {
      return std::count(line.begin(), line.end(), ' ') != 2 || line.starts_with("model.embed");
    });
    EXPECT_EQ(weights, expected) << name;
    EXPECT_TRUE(std::is_sorted(layers.begin(), layers.end())) << name;
    EXPECT_EQ(all_linears(model).back()->role, Role::head);
  }
}

TEST(Architectures, NamesTypesAndClassesAreUnique) {
  std::set<std::string> names, types, classes;
  for (const Architecture& row : architectures()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_FALSE(row.family.empty()) << row.name;
    EXPECT_FALSE(row.model_types.empty()) << row.name;
    for (const std::string& type : row.model_types) EXPECT_TRUE(types.insert(type).second) << type;
    for (const std::string& name : row.class_names)
      EXPECT_TRUE(classes.insert(name).second) << name;
  }
}

TEST(Architectures, AreFoundByTypeOrByClass) {
  const auto found = [](const nlohmann::json& config) {
    const Architecture* row = named_architecture(config.dump(), "c");
    return row == nullptr ? "" : row->name;
  };
  for (const Architecture& row : architectures()) {
    for (const std::string& type : row.model_types)
      EXPECT_EQ(found({{"model_type", type}, {"architectures", {"Whatever"}}}), row.name);
    for (const std::string& name : row.class_names) {
      EXPECT_EQ(found({{"model_type", nullptr}, {"architectures", {name}}}), row.name);
      EXPECT_EQ(found({{"model_type", "a_new_type"}, {"architectures", {name}}}), row.name);
    }
  }
  EXPECT_EQ(found({{"model_type", "kimi_k2"}}), "deepseek_v3");
  EXPECT_EQ(found({{"model_type", "gpt2"}, {"architectures", nlohmann::json::array()}}), "");
}

TEST(ExpectedTensors, AreInOrderOfUse) {
  const auto tensors = expected_tensors(describe(test::tiny_llama()));
  EXPECT_EQ(tensors.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(tensors.back().name, "lm_head.weight");
  EXPECT_EQ(tensors[tensors.size() - 2].name, "model.norm.weight");
}

TEST(DescribeModel, FactsOfTheFamilies) {
  const Model olmoe = describe(test::tiny_olmoe());
  EXPECT_EQ(olmoe.layers[0].attention.qk_norm, QkNorm::projection);
  EXPECT_FALSE(olmoe.layers[0].moe->routing.renormalize);
  EXPECT_EQ(olmoe.norm_eps, 1e-5);
  EXPECT_EQ(olmoe.layers[0].attention.rope.theta, 10000);
  const Model mixtral = describe(test::tiny_mixtral());
  EXPECT_EQ(mixtral.layers[0].attention.qk_norm, QkNorm::none);
  EXPECT_TRUE(mixtral.layers[0].moe->routing.renormalize);
  EXPECT_EQ(mixtral.layers[0].attention.rope.theta, 1e6);
  EXPECT_EQ(mixtral.layers[0].moe->routing.experts, 3);
  EXPECT_EQ(mixtral.layers[0].moe->routing.top_k, 2);
  const Model llama = describe(test::tiny_llama());
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_EQ(llama.layers[0].attention.rope.theta, 10000);
  EXPECT_FALSE(llama.layers[0].moe);
  ASSERT_EQ(llama.layers[0].mlps.size(), 1u);
  EXPECT_EQ(llama.layers[0].mlp(0).kind, MlpKind::dense);
}

TEST(DescribeModel, RenormalizesWhereTheConfigDecides) {
  nlohmann::json olmoe = test::tiny_olmoe();
  olmoe["norm_topk_prob"] = true;
  EXPECT_TRUE(describe(olmoe).layers[0].moe->routing.renormalize);
  nlohmann::json mixtral = test::tiny_mixtral();
  EXPECT_TRUE(describe(mixtral).layers[0].moe->routing.renormalize);
  mixtral["norm_topk_prob"] = true;  // not a key of this family, but what it always does
  EXPECT_TRUE(describe(mixtral).layers[0].moe->routing.renormalize);
  mixtral["norm_topk_prob"] = false;
  EXPECT_THROW(describe(mixtral), Error);
}

TEST(DescribeModel, BothGenerationsOfKeys) {
  nlohmann::json old_style = test::tiny_mixtral();
  old_style["rope_theta"] = 12345.5;
  old_style["rope_scaling"] = nullptr;
  EXPECT_EQ(describe(old_style).layers[0].attention.rope.theta, 12345.5);
  nlohmann::json new_style = test::tiny_mixtral();
  new_style["rope_parameters"] = {{"rope_theta", 777.0}, {"rope_type", "default"}};
  new_style["head_dim"] = nullptr;
  new_style["dtype"] = "bfloat16";
  EXPECT_EQ(describe(new_style).layers[0].attention.rope.theta, 777);
  EXPECT_EQ(describe(new_style).layers[0].attention.head_dim, 2);
  new_style["rope_theta"] = 5.0;
  EXPECT_EQ(describe(new_style).layers[0].attention.rope.theta, 777) << "the newer key wins";
  new_style["rope_parameters"].erase("rope_theta");
  EXPECT_EQ(describe(new_style).layers[0].attention.rope.theta, 5);
}

TEST(DescribeModel, OptionalKeys) {
  nlohmann::json config = test::tiny_olmoe();
  config.erase("num_key_value_heads");
  EXPECT_EQ(describe(config).layers[0].attention.kv_heads, 4);
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(describe(config).layers[0].attention.kv_heads, 4);
  EXPECT_FALSE(describe(config).layers[0].attention.clip_qkv);
  config["clip_qkv"] = 7.5;
  EXPECT_EQ(describe(config).layers[0].attention.clip_qkv, 7.5);
  config["max_position_embeddings"] = 512;
  EXPECT_EQ(describe(config).max_positions, 512);
}

}  // namespace
}  // namespace aq
