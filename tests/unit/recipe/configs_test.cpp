// Every recipe of configs/ on every architecture, and what each is for.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "aq/model/architecture.h"
#include "aq/recipe/recipe.h"
#include "test_paths.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(AQ_EXAMPLES) / ".." / "configs";

Recipe config(const std::string& name) {
  std::ifstream file(kConfigs / name);
  std::ostringstream text;
  text << file.rdbuf();
  return parse_recipe(text.str(), name);
}

std::vector<std::string> config_names() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kConfigs))
    names.push_back(entry.path().filename().string());
  return names;
}

/// The small models of the repository: at least one of every architecture.
std::vector<Model> models() {
  std::vector<Model> all;
  for (const fs::path& folder : {fs::path(AQ_TEST_DATA) / "models", fs::path(AQ_EXAMPLES)})
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      std::ifstream stream(entry.path() / "config.json");
      std::ostringstream text;
      if (!stream || !(text << stream.rdbuf())) continue;
      const std::string file = entry.path().string();
      if (named_architecture(text.str(), file) != nullptr)
        all.push_back(describe_model(text.str(), file));
    }
  return all;
}

LinearSpec linear(const std::string& name, Role role) {
  return {.name = name, .rows = 128, .columns = 2048, .role = role, .layer = 5, .expert = -1};
}

struct Expectation {
  std::string config, name;
  Role role;
  std::string assignment;
};

const std::string kLayer = "model.layers.5.";
const std::string kInt4 = "gptq int4 g128, scales bf16";
const std::string kMxfp4 = "gptq mxfp4 g32, scales e8m0 (best)";

/// By hand, from the purpose of each file.
std::vector<Expectation> expectations() {
  const std::string expert = kLayer + "mlp.experts.3.";
  const std::string mixtral = kLayer + "block_sparse_moe.";
  const std::string int3 = "gptq int3 g32, scales bf16";
  const std::string int4_g32 = "gptq int4 g32, scales bf16";
  const std::string shared = "gptq mxfp6 g64 (not OCP), scales e8m0 (best)";
  const std::string fine = "gptq mxfp6_e2m3 g32, scales e8m0 (best)";
  return {
      {"gptq_example.json", expert + "up_proj", Role::up, int4_g32},
      {"int4_g128.json", expert + "up_proj", Role::up, kInt4},
      {"int4_g32.json", kLayer + "self_attn.q_proj", Role::q, int4_g32},
      {"int8.json", expert + "down_proj", Role::down, "gptq int8 per-channel, scales bf16"},
      {"mxfp4.json", mixtral + "experts.3.w1", Role::gate, kMxfp4},
      {"nvfp4.json", expert + "gate_proj", Role::gate, "gptq nvfp4 g16, scales e4m3"},
      {"gptq_mixed_precision.json", kLayer + "self_attn.o_proj", Role::o,
       "gptq mxfp6 g32, scales e8m0 (best)"},
      {"gptq_mixed_precision.json", expert + "up_proj", Role::up, kMxfp4},
      {"gptq_mixed_precision.json", expert + "down_proj", Role::down, int3},
      {"gptq_mixed_precision.json", mixtral + "experts.0.w3", Role::up, kMxfp4},
      {"gptq_mixed_precision.json", mixtral + "experts.0.w2", Role::down, int3},
      {"gptq_mixed_precision.json", kLayer + "mlp.up_proj", Role::up, kInt4},
      {"gptq_olmoe.json", expert + "gate_proj", Role::gate, kMxfp4},
      {"gptq_olmoe.json", kLayer + "self_attn.k_proj", Role::k, kInt4},
      {"gptq_olmoe_mixed.json", kLayer + "self_attn.v_proj", Role::v,
       "gptq int8 per-channel, scales bf16"},
      {"gptq_olmoe_mixed.json", expert + "gate_proj", Role::gate, kMxfp4},
      {"gptq_olmoe_mixed.json", expert + "down_proj", Role::down, fine},
      {"gptq_olmoe_mixed.json", "model.layers.0.mlp.experts.63.up_proj", Role::up, fine},
      {"gptq_qwen2_moe.json", expert + "up_proj", Role::up, kMxfp4},
      {"gptq_qwen2_moe.json", kLayer + "mlp.shared_expert.down_proj", Role::down, shared},
      {"gptq_qwen2_moe.json", kLayer + "mlp.shared_expert_gate", Role::router, "untouched"},
      {"gptq_qwen2_moe.json", kLayer + "self_attn.q_proj", Role::q, kInt4},
      {"gptq_mixtral.json", mixtral + "experts.7.w1", Role::gate, kMxfp4},
      {"gptq_mixtral.json", mixtral + "experts.7.w3", Role::up, kMxfp4},
      {"gptq_mixtral.json", mixtral + "experts.7.w2", Role::down, kInt4},
      {"gptq_mixtral.json", kLayer + "self_attn.o_proj", Role::o, kInt4},
      {"gptq_deepseek_moe.json", expert + "up_proj", Role::up, kMxfp4},
      {"gptq_deepseek_moe.json", kLayer + "mlp.shared_experts.up_proj", Role::up, shared},
      {"gptq_deepseek_moe.json", "model.layers.0.mlp.up_proj", Role::up, kInt4},
      {"gptq_deepseek_moe.json", "model.layers.0.mlp.down_proj", Role::down,
       "gptq int4 g64, scales bf16"},
      {"gpt_oss_mxfp4.json", expert + "down_proj", Role::down, kMxfp4},
      {"gpt_oss_mxfp4.json", kLayer + "self_attn.q_proj", Role::q, "untouched"},
      {"gpt_oss_mxfp4.json", kLayer + "mlp.router", Role::router, "untouched"},
  };
}

TEST(Configs, DoWhatTheyAreFor) {
  std::set<std::string> seen;
  for (const Expectation& expected : expectations()) {
    SCOPED_TRACE(expected.config + ": " + expected.name);
    seen.insert(expected.config);
    EXPECT_EQ(to_string(resolve(config(expected.config), linear(expected.name, expected.role))),
              expected.assignment);
  }
  EXPECT_THAT(config_names(), testing::UnorderedElementsAreArray(seen))
      << "a recipe without an expectation, or the other way round";
}

TEST(Configs, LeaveRoutersAndTheHeadAsTheyAre) {
  for (const std::string& name : config_names())
    for (const LinearSpec& kept :
         {linear(kLayer + "mlp.gate", Role::router), linear("lm_head", Role::head),
          linear(kLayer + "block_sparse_moe.gate", Role::router)})
      EXPECT_EQ(resolve(config(name), kept).method, Method::copy) << name << ": " << kept.name;
}

/// Under the names that most families have.
bool plain_experts(const LinearSpec& linear) {
  return linear.name.find(".mlp.experts.") != std::string::npos;
}

TEST(Configs, EveryArchitectureHasASmallModel) {
  std::set<std::string> names;
  for (const Model& model : models()) names.insert(model.architecture);
  for (const Architecture& architecture : architectures())
    EXPECT_TRUE(names.contains(std::string(architecture.name))) << architecture.name;
}

/// Each applies, quantizes attention, MLPs and experts (that of gpt-oss routed experts alone), and
/// survives the way through a flat plan.
TEST(Configs, ApplyToEveryArchitecture) {
  for (const std::string& name : config_names())
    for (const Model& model : models()) {
      SCOPED_TRACE(name + " on " + model.architecture);
      const Recipe recipe = config(name);
      const Recipe flat =
          parse_recipe(flat_plan(recipe, assign(recipe, model), model), "flat.json");
      EXPECT_EQ(flat.settings, recipe.settings);
      EXPECT_TRUE(unmatched_patterns(flat, model).empty());
      for (const LinearSpec* each : all_linears(model)) {
        const Assignment assignment = resolve(recipe, *each);
        EXPECT_EQ(resolve(flat, *each), assignment) << each->name;
        const bool kept = each->role == Role::head || each->role == Role::router ||
                          each->role == Role::shared_router ||
                          (name == "gpt_oss_mxfp4.json" && !plain_experts(*each));
        EXPECT_EQ(assignment.method == Method::copy, kept) << each->name;
      }
    }
}

/// The recipe of a family names nothing that its models do not have.
TEST(Configs, MatchTheirFamily) {
  const std::set<std::pair<std::string, std::string>> families{
      {"gptq_olmoe.json", "olmoe"},           {"gptq_olmoe_mixed.json", "olmoe"},
      {"gptq_mixtral.json", "mixtral"},       {"gptq_qwen2_moe.json", "qwen2_moe"},
      {"gptq_deepseek_moe.json", "deepseek"}, {"gpt_oss_mxfp4.json", "gpt_oss"}};
  for (const auto& [name, family] : families)
    for (const Model& model : models())
      if (model.architecture == family) {
        for (const std::string& remark : unmatched_patterns(config(name), model))
          ADD_FAILURE() << remark;
      }
}

}  // namespace
}  // namespace aq
