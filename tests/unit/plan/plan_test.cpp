#include "aq/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "aq/core/error.h"
#include "plans.h"

namespace aq {
namespace {

constexpr int kRankCounts[] = {1, 2, 3, 5, 8, 16, 64, 1024};

const char* const kRecipes[] = {
    R"({"default": {"wq": "int4", "group_size": 32}})",
    R"({"default": {"wq": "int4"}, "overrides": [{"pattern": "*down_proj", "skip": true},
        {"pattern": "*.w2", "method": "rtn"}, {"pattern": "*k_proj", "method": "rtn"},
        {"pattern": "*experts.3.*", "wq": "bf16"}, {"pattern": "*v_proj", "wq": "bf16"}]})",
    R"({"default": {"wq": "int8", "group_size": "tensor"}, "overrides": [
        {"pattern": "*gate", "wq": "int8"}, {"pattern": "lm_head", "wq": "int3"}]})",
    R"({"default": {"wq": "bf16"}})",
};

std::vector<Model> models() {
  return {test::small_moe(), test::small_mixtral(), test::small_dense()};
}

/// Slices cover the rows once, in order, begin at multiples of kRowTile and have a rank.
void expect_covered(const MatrixPlan& matrix, int ranks) {
  SCOPED_TRACE(matrix.linear.name);
  if (matrix.assignment.method == Method::copy) {
    EXPECT_TRUE(matrix.slices.empty());
    EXPECT_EQ(matrix.writer(), -1);
    return;
  }
  Index next = 0;
  std::set<int> owners;
  for (const Slice& slice : matrix.slices) {
    ASSERT_EQ(slice.rows.begin, next);
    ASSERT_EQ(slice.rows.begin % kRowTile, 0);
    ASSERT_GT(slice.rows.size(), 0);
    ASSERT_TRUE(slice.rank >= 0 && slice.rank < ranks);
    ASSERT_TRUE(owners.insert(slice.rank).second) << "two slices of one rank";
    next = slice.rows.end;
  }
  ASSERT_EQ(next, matrix.linear.rows);
  ASSERT_EQ(matrix.writer(), matrix.slices.front().rank);
}

void expect_sound(const TaskPlan& task, int ranks) {
  ASSERT_TRUE(task.owner >= 0 && task.owner < ranks);
  bool needs_hessian = false;
  std::set<int> solvers;
  for (const MatrixPlan& matrix : task.matrices) {
    expect_covered(matrix, ranks);
    EXPECT_EQ(matrix.linear.columns, task.columns);
    EXPECT_EQ(matrix.linear.expert, task.expert);
    needs_hessian = needs_hessian || matrix.assignment.method == Method::gptq;
    for (const Slice& slice : matrix.slices) solvers.insert(slice.rank);
  }
  EXPECT_EQ(task.needs_hessian, needs_hessian);
  if (solvers.empty()) return;
  EXPECT_TRUE(solvers.contains(task.owner)) << "the owner solves rows too";
  if (!task.split) {
    EXPECT_EQ(solvers.size(), 1u) << "ranks without the factor";
  }
}

void expect_sound(const Plan& plan, const Model& model) {
  std::vector<std::string> names;
  for (const StagePlan* stage : test::stages_of(plan)) {
    EXPECT_GT(stage->balance, 0);
    EXPECT_LE(stage->balance, 1 + 1e-12);
    bool quantizes = false;
    for (const TaskPlan& task : stage->tasks) {
      expect_sound(task, plan.ranks);
      for (const MatrixPlan& matrix : task.matrices) {
        names.push_back(matrix.linear.name);
        quantizes = quantizes || matrix.assignment.method != Method::copy;
      }
    }
    EXPECT_EQ(stage->quantizes(), quantizes);
  }
  std::vector<std::string> expected;
  for (const LinearSpec* linear : all_linears(model)) expected.push_back(linear->name);
  EXPECT_EQ(std::ssize(names), plan.matrix_count);
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(expected));
}

TEST(MakePlan, CoversEveryRowOnceOnAnyRankCount) {
  for (const char* text : kRecipes)
    for (const Model& model : models())
      for (const int ranks : kRankCounts) {
        SCOPED_TRACE(str(model.architecture, " on ", ranks, " ranks, ", text));
        const Recipe recipe = parse_recipe(text, "recipe.json");
        expect_sound(test::plan_of(model, recipe, ranks, test::workload(7, 50), {}), model);
        if (HasFailure()) return;
      }
}

TEST(MakePlan, GivesTheSamePlanTwice) {
  for (const char* text : kRecipes)
    for (const Model& model : models())
      for (const int ranks : {1, 3, 64}) {
        const auto once = [&] {
          return test::plan_text(test::plan_of(model, parse_recipe(text, "recipe.json"), ranks,
                                               test::workload(20, 64), {.threads = 2}));
        };
        ASSERT_EQ(once(), once());
      }
}

TEST(MakePlan, CountsWhatTheRecipeSays) {
  const Recipe recipe = parse_recipe(kRecipes[0], "recipe.json");
  const Plan plan = test::plan_of(test::small_moe(), recipe, 3, test::workload(4, 10), {});
  EXPECT_EQ(plan.ranks, 3);
  EXPECT_EQ(plan.layers.size(), 2u);
  EXPECT_EQ(plan.matrix_count, 2 * (4 + 1 + 3 * 17) + 1);
  EXPECT_EQ(plan.quantized_count, 2 * (4 + 3 * 17));
  // 192 columns: 24 words and 6 scales of 16 bits a row; 100 columns: 13 words and 4 scales
  const double rows_of_192 = 4 * 192 + 17 * 2 * 100, rows_of_100 = 17 * 192;
  const double bits = rows_of_192 * (24 * 32 + 6 * 16) + rows_of_100 * (13 * 32 + 4 * 16);
  EXPECT_DOUBLE_EQ(plan.mean_bits, bits / (rows_of_192 * 192 + rows_of_100 * 100));
  const Plan nothing = test::plan_of(test::small_moe(), parse_recipe(kRecipes[3], "r"), 3,
                                     test::workload(4, 10), {});
  EXPECT_EQ(nothing.quantized_count, 0);
  EXPECT_EQ(nothing.mean_bits, 0);
  EXPECT_EQ(nothing.balance, 1);
}

TEST(MakePlan, LinearsOfOneInputShareATask) {
  const Recipe recipe = parse_recipe(kRecipes[0], "recipe.json");
  const Plan plan = test::plan_of(test::small_mixtral(), recipe, 2, test::workload(4, 10), {});
  const auto names = [](const TaskPlan& task) {
    std::vector<std::string> all;
    for (const MatrixPlan& matrix : task.matrices) all.push_back(matrix.linear.name);
    return all;
  };
  using testing::ElementsAre;
  const std::string layer = "model.layers.0.";
  const LayerPlan& first = plan.layers[0];
  EXPECT_THAT(names(first.stage(Stage::qkv).tasks[0]),
              ElementsAre(layer + "self_attn.q_proj", layer + "self_attn.k_proj",
                          layer + "self_attn.v_proj"));
  EXPECT_THAT(names(first.stage(Stage::o).tasks[0]), ElementsAre(layer + "self_attn.o_proj"));
  EXPECT_THAT(names(first.stage(Stage::router).tasks[0]),
              ElementsAre(layer + "block_sparse_moe.gate"));
  const std::string expert = layer + "block_sparse_moe.experts.2.";
  ASSERT_EQ(first.waves.size(), 1u);
  EXPECT_THAT(names(first.waves[0].gate_up.tasks[2]), ElementsAre(expert + "w1", expert + "w3"));
  EXPECT_THAT(names(first.waves[0].down.tasks[2]), ElementsAre(expert + "w2"));
  EXPECT_THAT(names(plan.head.tasks[0]), ElementsAre("lm_head"));
}

TEST(MakePlan, ADenseMlpIsOneWaveWithoutExpert) {
  const Recipe recipe = parse_recipe(kRecipes[0], "recipe.json");
  const Plan plan = test::plan_of(test::small_dense(), recipe, 2, test::workload(4, 10), {});
  for (const LayerPlan& layer : plan.layers) {
    ASSERT_EQ(layer.waves.size(), 1u);
    EXPECT_EQ(layer.waves[0].experts, (Range{0, 1}));
    EXPECT_EQ(layer.waves[0].gate_up.tasks[0].expert, -1);
    EXPECT_TRUE(layer.stage(Stage::router).tasks.empty());
    EXPECT_TRUE(layer.stage(Stage::qkv).needs_hessian());
  }
}

/// 64 equal experts on up to 16 ranks: nobody waits.
TEST(MakePlan, BalancesThePublishedExperts) {
  const Recipe recipe = parse_recipe(kRecipes[0], "recipe.json");
  for (const int ranks : {1, 2, 4, 8, 16}) {
    const Plan plan =
        test::plan_of(test::published_moe(), recipe, ranks, test::workload(128, 2048), {});
    EXPECT_GE(plan.balance, 0.9) << ranks;
    std::vector<Index> owned(ranks, 0);
    for (const TaskPlan& task : plan.layers[5].waves[0].down.tasks) ++owned[task.owner];
    for (const Index experts : owned) EXPECT_EQ(experts, 64 / ranks);
  }
}

/// Stages of one task begin on other ranks, layer by layer.
TEST(MakePlan, RotatesTheStagesOfOneTask) {
  const Recipe recipe = parse_recipe(kRecipes[0], "recipe.json");
  const Plan plan = test::plan_of(test::published_moe(), recipe, 8, test::workload(64, 64), {});
  std::set<int> owners;
  for (const LayerPlan& layer : plan.layers) {
    EXPECT_NE(layer.stage(Stage::qkv).tasks[0].owner, layer.stage(Stage::o).tasks[0].owner);
    owners.insert(layer.stage(Stage::qkv).tasks[0].owner);
  }
  EXPECT_EQ(owners.size(), 8u);
}

}  // namespace
}  // namespace aq
