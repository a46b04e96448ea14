#include "plan/placement.h"

#include <algorithm>
#include <numeric>

namespace aq {
namespace {

double solve_cost(const TaskPlan& task) {
  const auto n = static_cast<double>(task.columns);
  double rows = 0;
  for (const MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) rows += static_cast<double>(matrix.linear.rows);
  return rows * n * (task.needs_hessian ? n : 1.0);
}

/// The whole task on one rank.
void place_whole(TaskPlan& task, int rank) {
  task.owner = rank;
  task.split = false;
  for (MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) matrix.slices = {{rank, {0, matrix.linear.rows}}};
}

/// The row tiles of all matrices of the task dealt in order to the ranks [first, first + count).
void place_split(TaskPlan& task, int first, int count, int ranks, int rotation) {
  Index tiles = 0;
  for (const MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) tiles += ceil_div(matrix.linear.rows, kRowTile);
  const auto rank_at = [&](int part) { return (first + part + rotation) % ranks; };
  task.owner = rank_at(0);
  task.split = count > 1 && tiles > 1;
  Index matrix_first_tile = 0;
  for (MatrixPlan& matrix : task.matrices) {
    if (matrix.assignment.method == Method::copy) continue;
    const Index matrix_tiles = ceil_div(matrix.linear.rows, kRowTile);
    for (int part = 0; part < count; ++part) {
      const Range share = even_share(tiles, count, part);
      const Index begin = std::max<Index>(share.begin - matrix_first_tile, 0);
      const Index end = std::min<Index>(share.end - matrix_first_tile, matrix_tiles);
      if (begin >= end) continue;
      matrix.slices.push_back(
          {rank_at(part), {begin * kRowTile, std::min(end * kRowTile, matrix.linear.rows)}});
    }
    matrix_first_tile += matrix_tiles;
  }
}

/// How many ranks each task gets: one, and the rest one by one to the task with most work a rank.
std::vector<int> share_ranks(const std::vector<double>& costs, int ranks) {
  std::vector<int> counts(costs.size(), 1);
  for (int left = ranks - static_cast<int>(costs.size()); left > 0; --left) {
    std::size_t busiest = 0;
    for (std::size_t i = 1; i < costs.size(); ++i)
      if (costs[i] / counts[i] > costs[busiest] / counts[busiest]) busiest = i;
    ++counts[busiest];
  }
  return counts;
}

double balance_of(const StagePlan& stage, int ranks) {
  std::vector<double> work(static_cast<std::size_t>(ranks), 0.0);
  for (const TaskPlan& task : stage.tasks) {
    const double solve = solve_cost(task);
    double rows = 0;
    for (const MatrixPlan& matrix : task.matrices)
      for (const Slice& slice : matrix.slices) rows += static_cast<double>(slice.rows.size());
    for (const MatrixPlan& matrix : task.matrices)
      for (const Slice& slice : matrix.slices)
        work[static_cast<std::size_t>(slice.rank)] +=
            solve * static_cast<double>(slice.rows.size()) / rows;
    work[static_cast<std::size_t>(task.owner)] += task_cost(task) - solve;
  }
  const double busiest = *std::max_element(work.begin(), work.end());
  const double mean = std::accumulate(work.begin(), work.end(), 0.0) / ranks;
  return busiest > 0 ? mean / busiest : 1.0;
}

}  // namespace

std::vector<int> place_longest_first(const std::vector<double>& costs, int ranks) {
  std::vector<std::size_t> order(costs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<std::size_t>(ranks), 0.0);
  std::vector<int> rank(costs.size(), 0);
  for (const std::size_t task : order) {
    const auto least = std::min_element(load.begin(), load.end());
    rank[task] = static_cast<int>(least - load.begin());
    *least += costs[task];
  }
  return rank;
}

double task_cost(const TaskPlan& task) {
  const auto n = static_cast<double>(task.columns);
  return solve_cost(task) + (task.needs_hessian ? n * n * n / 3 : 0.0);
}

void place_stage(StagePlan& stage, int ranks, int rotation) {
  std::vector<TaskPlan*> tasks;
  std::vector<double> costs;
  for (TaskPlan& task : stage.tasks) {
    if (solve_cost(task) == 0) continue;
    tasks.push_back(&task);
    costs.push_back(task_cost(task));
  }
  if (tasks.empty()) return;
  if (static_cast<int>(tasks.size()) >= ranks) {
    const std::vector<int> placed = place_longest_first(costs, ranks);
    for (std::size_t i = 0; i < tasks.size(); ++i)
      place_whole(*tasks[i], (placed[i] + rotation) % ranks);
  } else {
    const std::vector<int> counts = share_ranks(costs, ranks);
    int first = 0;
    for (std::size_t i = 0; i < tasks.size(); first += counts[i], ++i)
      place_split(*tasks[i], first, counts[i], ranks, rotation);
  }
  stage.balance = balance_of(stage, ranks);
}

}  // namespace aq
