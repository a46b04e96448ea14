/// Which experts of a wave are dispatched, to whom, and which way a run takes.

#include "aq/plan/dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "aq/core/error.h"
#include "aq/plan/choose.h"
#include "plans.h"

namespace aq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// One wave of all 64 experts of the published OLMoE.
WavePlan published_wave(int ranks) {
  const Recipe recipe = parse_recipe(R"({"default": {"wq": "int4"}})", "recipe");
  const Plan plan =
      test::plan_of(test::published_moe(), recipe, ranks, test::workload(64, 128), {});
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
    const WavePlan wave = published_wave(ranks);
    const WaveSplit split = split_wave(wave, tokens, stays, ranks, 4);
    std::set<Index> seen;
    std::vector<const ExpertTasks*> all{&split.dispatched};
    for (const ExpertTasks& tasks : split.reduced) all.push_back(&tasks);
    for (const ExpertTasks* tasks : all) {
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
      EXPECT_FALSE(stays[split.dispatched.experts[i]]);
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
  EXPECT_THAT(split_wave(published_wave(kRanks), tokens, nobody, kRanks, 4).reduced, IsEmpty());
  tokens[5] = 200000;
  const WaveSplit split = split_wave(published_wave(kRanks), tokens, nobody, kRanks, 4);
  ASSERT_EQ(split.reduced.size(), 1u);
  EXPECT_THAT(split.reduced[0].experts, ElementsAre(5));
  EXPECT_TRUE(split.reduced[0].down.tasks.front().split);
  std::set<int> ranks;
  for (const MatrixPlan& matrix : split.reduced[0].gate_up.tasks.front().matrices)
    for (const Slice& slice : matrix.slices) ranks.insert(slice.rank);
  EXPECT_GE(ranks.size(), 4u);  // as many as it pays to send the factor to
}

TEST(SplitWave, OwnersHaveEqualWork) {
  std::vector<std::int64_t> tokens = even_tokens();
  for (std::size_t e = 0; e < tokens.size(); ++e) tokens[e] = static_cast<std::int64_t>(200 * e);
  const WaveSplit split = split_wave(published_wave(8), tokens, std::vector<bool>(64, false), 8, 4);
  std::vector<double> load(8, 0.0);  // tokens, which differ; solving is the same for all
  std::vector<int> count(8, 0);
  for (std::size_t i = 0; i < split.dispatched.experts.size(); ++i) {
    const auto owner = static_cast<std::size_t>(split.dispatched.down.tasks[i].owner);
    load[owner] += static_cast<double>(tokens[split.dispatched.experts[i]]);
    ++count[owner];
  }
  EXPECT_THAT(count, testing::Each(testing::AllOf(testing::Ge(7), testing::Le(9))));
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / 8;
  EXPECT_LT(*std::max_element(load.begin(), load.end()), 1.15 * mean);
}

TEST(SplitWave, KeepsTheLimits) {
  std::vector<std::int64_t> tokens;
  for (int e = 0; e < 64; ++e) tokens.push_back(50 + 10 * (e % 7));
  WavePlan wave = published_wave(8);
  const std::vector<bool> nobody(64, false);
  for (const DispatchLimits limits : {DispatchLimits{400, 64, 5}, DispatchLimits{10000, 3, 1}}) {
    wave.limits = limits;
    const WaveSplit split = split_wave(wave, tokens, nobody, 8, 4);
    std::vector<std::int64_t> rows(8, 0), count(8, 0);
    for (std::size_t i = 0; i < split.dispatched.experts.size(); ++i) {
      const auto owner = static_cast<std::size_t>(split.dispatched.down.tasks[i].owner);
      rows[owner] += tokens[split.dispatched.experts[i]];
      ++count[owner];
    }
    EXPECT_THAT(rows, testing::Each(testing::Le(limits.rows)));
    EXPECT_THAT(count, testing::Each(testing::AllOf(testing::Le(limits.experts), testing::Ge(3))));
    std::size_t stay = 0;
    for (const ExpertTasks& tasks : split.reduced) {
      EXPECT_LE(std::ssize(tasks.experts), limits.reduced);
      stay += tasks.experts.size();
    }
    EXPECT_EQ(stay + split.dispatched.experts.size(), 64u);
  }
}

CostOptions options() {
  return {.machine = {}, .weight_bytes = [](const LinearSpec&) { return 2.0; }};
}

ChosenPlan choose(TokensToExperts asked, const Workload& work, int ranks,
                  const std::string& recipe = R"({"default": {"wq": "int4"}})") {
  const Model model = test::published_moe();
  return choose_plan(asked, model, assign(parse_recipe(recipe, "recipe"), model), ranks, work,
                     {.memory = Index{1} << 40}, options());
}

TEST(ChoosePlan, WhatIsClearlyFasterUnlessAsked) {
  // 32 lanes on 64 ranks: with reduce half of the ranks have no tokens to work on.
  const Workload half = test::workload(32, 2048), full = test::workload(4096, 2048);
  const ChosenPlan chosen = choose(TokensToExperts::automatic, half, 64);
  EXPECT_TRUE(chosen.plan.dispatch);
  EXPECT_LT(chosen.cost.total_seconds,
            0.95 * choose(TokensToExperts::reduce, half, 64).cost.total_seconds);
  EXPECT_THAT(chosen.reason, HasSubstr("of the other way"));
  EXPECT_TRUE(choose(TokensToExperts::dispatch, full, 8).plan.dispatch);
  EXPECT_FALSE(choose(TokensToExperts::reduce, half, 64).plan.dispatch);
  // Every rank has its part of the tokens: which way they take hardly matters.
  EXPECT_FALSE(choose(TokensToExperts::automatic, full, 8).plan.dispatch);
  EXPECT_FALSE(choose(TokensToExperts::automatic, half, 1).plan.dispatch);
  EXPECT_FALSE(choose(TokensToExperts::automatic, half, 64,
                      R"({"default": {"wq": "int4"}, "gptq": {"expert_tokens": "all"}})")
                   .plan.dispatch);
}

TEST(ChoosePlan, DispatchNeedsRoutedExperts) {
  const Model dense = test::small_dense();
  const Assignments int4 = assign(parse_recipe(R"({"default": {"wq": "int4"}})", "recipe"), dense);
  EXPECT_THROW(
      choose_plan(TokensToExperts::dispatch, dense, int4, 2, test::workload(4, 16), {}, options()),
      Error);
}

/// By hand: 4 ranks, 64 experts, hidden 2048, top-8, 6,400 tokens; three quarters of the inputs go
/// elsewhere, and as many outputs come back. So do those of the original stream, and the own one
/// goes through original weights first; then two more arrays tell what tokens lack.
TEST(ChoosePlan, DispatchMovesTokensInsteadOfSums) {
  const Workload work = test::workload(64, 100);
  const ChosenPlan reduce = choose(TokensToExperts::reduce, work, 4);
  const ChosenPlan dispatch = choose(TokensToExperts::dispatch, work, 4);
  const auto layers = static_cast<double>(test::published_moe().layers.size());
  const double moved = (3 * 2 + 2) * 6400 * 8 * 0.75 * 2048 * 4 * layers;
  EXPECT_NEAR(dispatch.cost.all.traffic.dispatch_sent, moved, 1e-9 * moved);
  EXPECT_NEAR(dispatch.cost.all.traffic.dispatch_received, moved, 1e-9 * moved);
  EXPECT_EQ(reduce.cost.all.traffic.dispatch_sent, 0);
  EXPECT_LT(dispatch.cost.all.traffic.reduce_sent, 0.1 * reduce.cost.all.traffic.reduce_sent);
  // The same work, and every weight is read where it is solved.
  EXPECT_NEAR(dispatch.cost.all.flops.hessian / reduce.cost.all.flops.hessian, 1, 1e-9);
  EXPECT_NEAR(dispatch.cost.all.flops.forward / reduce.cost.all.flops.forward, 1, 1e-9);
  EXPECT_NEAR(dispatch.cost.all.flops.solve / reduce.cost.all.flops.solve, 1, 1e-9);
  EXPECT_LT(dispatch.plan.memory.total(), reduce.plan.memory.total());
}

/// Under every limit that is not refused, and less memory with more ranks.
TEST(ChoosePlan, MemoryFallsWithRanks) {
  const Workload work = test::workload(256, 512);
  Index before = Index{1} << 60;
  for (const int ranks : {2, 4, 8, 16, 32, 64}) {
    const Index total = choose(TokensToExperts::dispatch, work, ranks).plan.memory.total();
    EXPECT_LT(total, before) << ranks;
    before = total;
  }
}

}  // namespace
}  // namespace aq
