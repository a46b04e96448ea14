#include "plan/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "aq/plan/plan.h"

namespace aq {
namespace {

double busiest(const std::vector<double>& costs, const std::vector<int>& placed, int ranks) {
  std::vector<double> load(ranks, 0.0);
  for (std::size_t i = 0; i < costs.size(); ++i) load[placed[i]] += costs[i];
  return *std::max_element(load.begin(), load.end());
}

/// The least load of the busiest rank over all placements.
double optimum(const std::vector<double>& costs, int ranks) {
  std::vector<int> placed(costs.size(), 0);
  double best = std::accumulate(costs.begin(), costs.end(), 0.0);
  for (;;) {
    best = std::min(best, busiest(costs, placed, ranks));
    std::size_t digit = 0;
    while (digit < placed.size() && ++placed[digit] == ranks) placed[digit++] = 0;
    if (digit == placed.size()) return best;
  }
}

/// Graham's bound for longest-processing-time-first (1969): 4/3 - 1/(3m) of the optimum.
TEST(PlaceLongestFirst, IsWithinGrahamsBoundOfTheOptimum) {
  std::mt19937 random(7);
  for (int ranks = 1; ranks <= 4; ++ranks)
    for (int trial = 0; trial < 40; ++trial) {
      std::vector<double> costs(1 + random() % (ranks == 4 ? 6 : 8));
      for (double& cost : costs) cost = static_cast<double>(1 + random() % 12);
      const std::vector<int> placed = place_longest_first(costs, ranks);
      ASSERT_EQ(placed.size(), costs.size());
      for (const int rank : placed) ASSERT_TRUE(rank >= 0 && rank < ranks);
      const double bound = 4.0 / 3 - 1.0 / (3 * ranks);
      ASSERT_LE(busiest(costs, placed, ranks), bound * optimum(costs, ranks) * (1 + 1e-12))
          << ranks << " ranks";
    }
}

TEST(PlaceLongestFirst, HandWorked) {
  // 7 to rank 0, 6 to rank 1, 5 to rank 1 (11), 4 to rank 0 (11), 3 to the lower of the two equals
  EXPECT_EQ(place_longest_first({3, 4, 5, 6, 7}, 2), (std::vector<int>{0, 0, 1, 1, 0}));
  // the worst case for two ranks: 3 3 2 2 2 ends at 7 where 6 is possible
  const std::vector<double> worst{3, 3, 2, 2, 2};
  EXPECT_EQ(busiest(worst, place_longest_first(worst, 2), 2), 7);
  EXPECT_EQ(optimum(worst, 2), 6);
}

TEST(PlaceLongestFirst, TiesGoToTheLowerRankAndTheEarlierTask) {
  EXPECT_EQ(place_longest_first({1, 1, 1, 1, 1}, 3), (std::vector<int>{0, 1, 2, 0, 1}));
  EXPECT_EQ(place_longest_first({0, 0}, 2), (std::vector<int>{0, 0}));
  EXPECT_TRUE(place_longest_first({}, 3).empty());
}

/// Equal costs are dealt evenly: the busiest rank has ceil(n / ranks) of them.
TEST(PlaceLongestFirst, EqualCostsAreDealtEvenly) {
  for (const int ranks : {1, 2, 3, 5, 8, 16, 64})
    for (const int tasks : {4 * ranks, 4 * ranks + 1, 5 * ranks - 1, 9 * ranks, 10 * ranks + 1}) {
      const std::vector<double> costs(tasks, 2.5);
      const double most = busiest(costs, place_longest_first(costs, ranks), ranks);
      ASSERT_EQ(most, 2.5 * ((tasks + ranks - 1) / ranks)) << tasks << " on " << ranks;
    }
}

/// A stage of `count` equal tasks, each of two matrices of `rows` x `columns`.
StagePlan equal_stage(Index count, Index rows, Index columns) {
  StagePlan stage;
  for (Index i = 0; i < count; ++i) {
    TaskPlan task;
    task.columns = columns;
    task.expert = i;
    task.needs_hessian = true;
    for (int m = 0; m < 2; ++m) {
      MatrixPlan matrix;
      matrix.linear = {"m", rows, columns, Role::gate, 0, i};
      matrix.assignment.method = Method::gptq;
      task.matrices.push_back(matrix);
    }
    stage.tasks.push_back(task);
  }
  return stage;
}

TEST(PlaceStage, BalanceOfEqualTasks) {
  for (const int ranks : {1, 2, 3, 5, 8, 16, 64})
    for (const int tasks : {4 * ranks, 4 * ranks + 1, 9 * ranks + 1, 64 * 4}) {
      StagePlan stage = equal_stage(tasks, 100, 64);
      place_stage(stage, ranks, 1);
      const double most = (tasks + ranks - 1) / ranks;  // tasks of the busiest rank
      const double whole = static_cast<double>(tasks) / ranks / most;
      ASSERT_GE(stage.balance, 0.9) << tasks << " on " << ranks;
      if (whole >= 0.9) {
        ASSERT_NEAR(stage.balance, whole, 1e-12);
      }
    }
}

TEST(PlaceStage, AFewTasksAreSplitByRows) {
  StagePlan stage = equal_stage(2, 200, 64);  // 2 x 4 tiles a task
  place_stage(stage, 4, 0);
  const auto ranges = [&](int task, int matrix) {
    std::vector<std::vector<Index>> all;
    for (const Slice& slice : stage.tasks[task].matrices[matrix].slices)
      all.push_back({slice.rank, slice.rows.begin, slice.rows.end});
    return all;
  };
  using Ranges = std::vector<std::vector<Index>>;
  EXPECT_TRUE(stage.tasks[0].split && stage.tasks[1].split);
  EXPECT_EQ(ranges(0, 0), (Ranges{{0, 0, 200}}));
  EXPECT_EQ(ranges(0, 1), (Ranges{{1, 0, 200}}));
  EXPECT_EQ(ranges(1, 0), (Ranges{{2, 0, 200}}));
  EXPECT_EQ(ranges(1, 1), (Ranges{{3, 0, 200}}));
  StagePlan uneven = equal_stage(1, 200, 64);
  place_stage(uneven, 3, 2);  // 8 tiles on ranks 2, 0, 1: 3, 3 and 2
  EXPECT_EQ(uneven.tasks[0].owner, 2);
  const auto& matrices = uneven.tasks[0].matrices;
  ASSERT_EQ(matrices[0].slices.size(), 2u);
  EXPECT_EQ(matrices[0].slices[0].rank, 2);
  EXPECT_EQ(matrices[0].slices[0].rows, (Range{0, 192}));
  EXPECT_EQ(matrices[0].slices[1].rank, 0);
  EXPECT_EQ(matrices[0].slices[1].rows, (Range{192, 200}));
  ASSERT_EQ(matrices[1].slices.size(), 2u);
  EXPECT_EQ(matrices[1].slices[0].rows, (Range{0, 128}));
  EXPECT_EQ(matrices[1].slices[1].rank, 1);
  EXPECT_EQ(matrices[1].slices[1].rows, (Range{128, 200}));
  EXPECT_EQ(matrices[1].writer(), 0);
}

TEST(TaskCost, IsFactorAndRows) {
  const StagePlan stage = equal_stage(1, 10, 6);
  EXPECT_DOUBLE_EQ(task_cost(stage.tasks[0]), 2 * 10 * 36 + 216 / 3.0);
}

}  // namespace
}  // namespace aq
