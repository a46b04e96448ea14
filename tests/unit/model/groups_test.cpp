#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "aq/core/text.h"
#include "aq/model/architecture.h"
#include "configs.h"

namespace aq {
namespace {

using testing::ElementsAre;

std::vector<Model> models() {
  std::vector<Model> all;
  for (const nlohmann::json& config : {test::tiny_olmoe(), test::tiny_mixtral(), test::tiny_llama(),
                                       test::tiny_qwen2_moe(), test::tiny_deepseek_v3()})
    all.push_back(describe_model(config.dump(), "config.json"));
  return all;
}

/// "qkv: q_a_proj kv_a_proj_with_mqa" of each group.
std::vector<std::string> lines_of(const std::vector<LinearGroup>& groups) {
  std::vector<std::string> lines;
  for (const LinearGroup& group : groups) {
    lines.push_back(str(stage_name(group.stage), ":"));
    for (const LinearSpec* linear : group.linears)
      lines.back() += " " + linear->name.substr(std::string("model.layers.0.").size());
  }
  return lines;
}

TEST(Groups, OfLatentAttentionAndExperts) {
  const Model model = describe_model(test::tiny_deepseek_v3().dump(), "config.json");
  EXPECT_THAT(lines_of(groups_before_mlps(model.layers[0])),
              ElementsAre("qkv: self_attn.q_a_proj self_attn.kv_a_proj_with_mqa",
                          "latent: self_attn.q_b_proj", "latent: self_attn.kv_b_proj",
                          "o: self_attn.o_proj", "router: mlp.gate"));
  EXPECT_THAT(lines_of(mlp_groups(model.layers[0].mlp(3))),
              ElementsAre("gate_up: mlp.experts.3.gate_proj mlp.experts.3.up_proj",
                          "down: mlp.experts.3.down_proj"));
}

TEST(Groups, AGateOfOutputsReadsWhatTheRouterReads) {
  nlohmann::json config = test::tiny_qwen2_moe();
  config["mlp_only_layers"] = nlohmann::json::array();
  config["decoder_sparse_step"] = 1;
  const Model model = describe_model(config.dump(), "config.json");
  EXPECT_EQ(lines_of(groups_before_mlps(model.layers[0])).back(),
            "router: mlp.gate mlp.shared_expert_gate");
}

/// Of every layer: groups of one stage follow each other, and their linears read one input.
TEST(Groups, HaveOneInputAndStagesOnce) {
  for (const Model& model : models())
    for (const LayerSpec& layer : model.layers) {
      std::set<Stage> stages;
      const std::vector<LinearGroup> before = groups_before_mlps(layer);
      for (std::size_t i = 0; i < before.size(); ++i) {
        ASSERT_FALSE(before[i].linears.empty());
        for (const LinearSpec* linear : before[i].linears)
          EXPECT_EQ(linear->columns, before[i].linears.front()->columns) << linear->name;
        const bool begins = i == 0 || before[i - 1].stage != before[i].stage;
        EXPECT_EQ(stages.insert(before[i].stage).second, begins) << model.architecture;
      }
      EXPECT_EQ(stages.contains(Stage::router), layer.moe.has_value());
      EXPECT_EQ(stages.contains(Stage::latent), layer.latent.has_value());
    }
}

/// Routed experts stand at their numbers, the others behind them.
TEST(Mlps, RunsCoverThemInOrder) {
  for (const Model& model : models())
    for (const LayerSpec& layer : model.layers) {
      Index next = 0;
      std::set<MlpKind> kinds;
      for (const MlpRun& run : mlp_runs(layer)) {
        EXPECT_EQ(run.numbers.begin, next);
        EXPECT_GT(run.numbers.size(), 0);
        EXPECT_TRUE(kinds.insert(run.kind).second);
        EXPECT_EQ(first_mlp(layer, run.kind), &layer.mlp(run.numbers.begin));
        for (Index number = next; number < run.numbers.end; ++number) {
          EXPECT_EQ(layer.mlp(number).kind, run.kind);
          EXPECT_EQ(layer.mlp(number).gate.expert, run.kind == MlpKind::routed ? number : -1);
        }
        next = run.numbers.end;
      }
      EXPECT_EQ(next, std::ssize(layer.mlps));
      EXPECT_EQ(kinds.contains(MlpKind::routed), layer.moe.has_value());
      EXPECT_EQ(kinds.contains(MlpKind::dense), !layer.moe.has_value());
      if (layer.moe) {
        EXPECT_EQ(mlp_runs(layer).front().numbers, (Range{0, layer.moe->routing.experts}));
      }
    }
}

TEST(Linears, AreNumberedInOrderOfUse) {
  for (const Model& model : models()) {
    const std::vector<const LinearSpec*> linears = all_linears(model);
    for (std::size_t i = 0; i < linears.size(); ++i)
      EXPECT_EQ(linears[i]->id, static_cast<Index>(i)) << linears[i]->name;
  }
}

}  // namespace
}  // namespace aq
