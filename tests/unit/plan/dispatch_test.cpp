/// Which experts of a wave are dispatched, to whom, and which way a run takes.

#include "aq/plan/dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "aq/core/error.h"
#include "small_models.h"

namespace aq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// One wave of all 64 experts of the published OLMoE.
WavePlan whole_wave(int ranks) {
  const Recipe recipe = parse_recipe(R"({"default": {"wq": "int4"}})", "recipe");
  const Plan plan = make_plan(test::published_moe(), recipe, ranks, test::workload(64, 128), {});
  return plan.layers.front().waves.front();
}

std::vector<std::int64_t> even_tokens() {
  return std::vector<std::int64_t>(64, 100);
}

std::vector<int> owners(const StagePlan& stage) {
  std::vector<int> all;
  for (const TaskPlan& task : stage.tasks) all.push_back(task.owner);
  return all;
}

TEST(SplitWave, EveryExpertOnceWithOneOwnerForAllItsLinears) {
  std::mt19937 random(3);
  for (const int ranks : {1, 2, 3, 7, 32, 64}) {
    std::vector<std::int64_t> tokens;
    std::vector<bool> stays;
    for (int e = 0; e < 64; ++e) {
      tokens.push_back(static_cast<std::int64_t>(random() % 1000));
      stays.push_back(random() % 8 == 0);
    }
    const WavePlan wave = whole_wave(ranks);
    const WaveSplit split = split_wave(wave, tokens, stays, ranks);
    std::set<Index> seen;
    for (const ExpertTasks* tasks : {&split.dispatched, &split.reduced}) {
      EXPECT_TRUE(std::is_sorted(tasks->experts.begin(), tasks->experts.end()));
      ASSERT_EQ(tasks->gate_up.tasks.size(), tasks->experts.size());
      ASSERT_EQ(tasks->down.tasks.size(), tasks->experts.size());
      for (std::size_t i = 0; i < tasks->experts.size(); ++i) {
        EXPECT_TRUE(seen.insert(tasks->experts[i]).second);
        EXPECT_EQ(tasks->gate_up.tasks[i].expert, tasks->experts[i]);
        EXPECT_EQ(tasks->down.tasks[i].expert, tasks->experts[i]);
      }
    }
    EXPECT_EQ(seen.size(), 64u);
    EXPECT_EQ(owners(split.dispatched.gate_up), owners(split.dispatched.down));
    for (std::size_t i = 0; i < split.dispatched.experts.size(); ++i) {
      EXPECT_FALSE(stays[static_cast<std::size_t>(split.dispatched.experts[i])]);
      for (const TaskPlan* task :
           {&split.dispatched.gate_up.tasks[i], &split.dispatched.down.tasks[i]}) {
        EXPECT_FALSE(task->split);
        for (const MatrixPlan& matrix : task->matrices) {
          ASSERT_EQ(matrix.slices.size(), 1u);
          EXPECT_EQ(matrix.slices.front().rank, task->owner);
          EXPECT_EQ(matrix.slices.front().rows, (Range{0, matrix.linear.rows}));
        }
      }
    }
  }
}

TEST(SplitWave, AHotExpertStaysAndItsRowsAreShared) {
  constexpr int kRanks = 16;
  std::vector<std::int64_t> tokens = even_tokens();
  const std::vector<bool> nobody(64, false);
  EXPECT_THAT(split_wave(whole_wave(kRanks), tokens, nobody, kRanks).reduced.experts, IsEmpty());
  tokens[5] = 200000;
  const WaveSplit split = split_wave(whole_wave(kRanks), tokens, nobody, kRanks);
  EXPECT_THAT(split.reduced.experts, ElementsAre(5));
  EXPECT_TRUE(split.reduced.down.tasks.front().split);
  std::set<int> ranks;
  for (const MatrixPlan& matrix : split.reduced.gate_up.tasks.front().matrices)
    for (const Slice& slice : matrix.slices) ranks.insert(slice.rank);
  EXPECT_GE(ranks.size(), 4u);  // as many as it pays to send the factor to
}

TEST(SplitWave, OwnersHaveEqualWork) {
  std::vector<std::int64_t> tokens = even_tokens();
  for (std::size_t e = 0; e < tokens.size(); ++e) tokens[e] = static_cast<std::int64_t>(200 * e);
  const WaveSplit split = split_wave(whole_wave(8), tokens, std::vector<bool>(64, false), 8);
  std::vector<double> load(8, 0.0);  // tokens, which differ; solving is the same for all
  std::vector<int> count(8, 0);
  for (std::size_t i = 0; i < split.dispatched.experts.size(); ++i) {
    const auto owner = static_cast<std::size_t>(split.dispatched.down.tasks[i].owner);
    load[owner] +=
        static_cast<double>(tokens[static_cast<std::size_t>(split.dispatched.experts[i])]);
    ++count[owner];
  }
  EXPECT_THAT(count, testing::Each(testing::AllOf(testing::Ge(7), testing::Le(9))));
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / 8;
  EXPECT_LT(*std::max_element(load.begin(), load.end()), 1.15 * mean);
}

TEST(ChooseWay, ByCostUnlessAsked) {
  const Model model = test::published_moe();
  // 16 sequences of 512: few tokens, so that moving them is cheap against 64 sums of 2048 columns.
  const Workload few = test::workload(16, 512), many = test::workload(4096, 2048);
  EXPECT_TRUE(choose_way(TokensToExperts::automatic, model, 4.5, few, 8).dispatch);
  EXPECT_FALSE(choose_way(TokensToExperts::automatic, model, 4.5, many, 8).dispatch);
  EXPECT_TRUE(choose_way(TokensToExperts::dispatch, model, 4.5, many, 8).dispatch);
  EXPECT_FALSE(choose_way(TokensToExperts::reduce, model, 4.5, few, 8).dispatch);
  EXPECT_THAT(choose_way(TokensToExperts::automatic, model, 4.5, few, 8).reason,
              HasSubstr("of tokens against"));
  EXPECT_FALSE(choose_way(TokensToExperts::automatic, model, 4.5, few, 1).dispatch);
  EXPECT_FALSE(choose_way(TokensToExperts::automatic, model, 4.5, few, 65).dispatch);
  EXPECT_THROW(choose_way(TokensToExperts::dispatch, model, 4.5, few, 65), Error);
}

/// By hand: 4 ranks, 64 experts, hidden 2048, width 1024, top-8.
TEST(ExpertTraffic, OfOneRank) {
  const Model model = test::published_moe();
  const ExpertTraffic traffic =
      expert_traffic(model, model.layers.front(), 4, test::workload(64, 100), 4);
  const double sums = 4.0 * (2048.0 * 2049 / 2 + 1024.0 * 1025 / 2);
  const double weights = 3 * 2048.0 * 1024;
  const double by_hand = 64 * 0.75 * (2 * sums + weights / 2);  // triangles, without their padding
  EXPECT_GE(traffic.reduce, by_hand);
  EXPECT_LT(traffic.reduce, 1.2 * by_hand);
  EXPECT_EQ(traffic.dispatch, 4 * (64 * 100 * 8 / 4.0) * 0.75 * 2048 * 4);
  EXPECT_EQ(traffic.weights, 64 * weights * 4);
}

}  // namespace
}  // namespace aq
