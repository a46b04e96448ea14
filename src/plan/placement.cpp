#include "plan/placement.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <queue>

#include "aq/plan/cost.h"

namespace aq {
namespace {

/// Whole tasks are enough from this balance on.
constexpr double kGoodBalance = 0.9;
/// Operations that a rank does in the time in which it receives one byte of a factor: some hundred
/// GFLOP/s against a few GB/s.
constexpr double kOperationsPerByte = 64;
constexpr Index kLeastSplit = 4;  // ranks that a task may always be dealt to

double solve_cost(const TaskPlan& task) {
  const auto n = static_cast<double>(task.columns);
  double rows = 0;
  for (const MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) rows += static_cast<double>(matrix.linear.rows);
  return rows * n * (task.needs_hessian ? n * (1 + target_flops(task.cross_of)) : 1.0);
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

/// Most ranks that it pays to deal the rows of a task to: the owner sends the factor to each, 6 n^2
/// bytes with the damped H and 4 n for each row of a cross sum, and each saves a part of what GPTQ,
/// refinement and targets take.
int most_ranks(const TaskPlan& task, int sweeps) {
  Index rows = 0, tiles = 0;
  for (const MatrixPlan& matrix : task.matrices) {
    if (matrix.assignment.method == Method::copy) continue;
    rows += matrix.linear.rows;
    tiles += ceil_div(matrix.linear.rows, kRowTile);
  }
  if (!task.needs_hessian) return checked_cast<int>(tiles);
  const double bytes =
      6 + 4 * static_cast<double>(task.cross_rows) / static_cast<double>(task.columns);
  const double worth = static_cast<double>(rows) *
                       (1 + target_flops(task.cross_of) + refine_flops(1, sweeps)) /
                       (bytes * kOperationsPerByte);
  const auto ranks = static_cast<Index>(std::ceil(std::sqrt(worth)));
  return checked_cast<int>(std::min(tiles, std::max(kLeastSplit, ranks)));
}

/// How many ranks each task gets: one, and the rest one by one to the task with most work a rank
/// that may have more.
std::vector<int> share_ranks(const std::vector<double>& costs, const std::vector<int>& most,
                             int ranks) {
  std::vector<int> counts(costs.size(), 1);
  using Share = std::pair<double, std::size_t>;  // work a rank; before it the later task
  const auto later = [](const Share& a, const Share& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::priority_queue<Share, std::vector<Share>, decltype(later)> busiest(later);
  for (std::size_t i = 0; i < costs.size(); ++i)
    if (most[i] > 1) busiest.emplace(costs[i], i);
  for (int left = ranks - static_cast<int>(costs.size()); left > 0 && !busiest.empty(); --left) {
    const std::size_t i = busiest.top().second;
    busiest.pop();
    if (++counts[i] < most[i]) busiest.emplace(costs[i] / counts[i], i);
  }
  return counts;
}

/// Fewer tasks than ranks: the rows of each are dealt to a few of them.
void place_few(const std::vector<TaskPlan*>& tasks, int ranks, int rotation, int sweeps) {
  std::vector<double> costs;
  std::vector<int> most;
  for (const TaskPlan* task : tasks) {
    costs.push_back(task_cost(*task));
    most.push_back(most_ranks(*task, sweeps));
  }
  const std::vector<int> counts = share_ranks(costs, most, ranks);
  int first = 0;
  for (std::size_t i = 0; i < tasks.size(); first += counts[i], ++i)
    place_split(*tasks[i], first, counts[i], ranks, rotation);
}

void place_many(const std::vector<TaskPlan*>& tasks, int ranks, int rotation) {
  std::vector<double> costs;
  for (const TaskPlan* task : tasks) costs.push_back(task_cost(*task));
  const std::vector<int> placed = place_longest_first(costs, ranks);
  for (std::size_t i = 0; i < tasks.size(); ++i)
    place_whole(*tasks[i], (placed[i] + rotation) % ranks);
}

/// An equal number of whole tasks for each rank, and the rows of the cheapest, which are left,
/// dealt to all.
void place_equally(std::vector<TaskPlan*> tasks, int ranks, int rotation, int sweeps) {
  std::stable_sort(tasks.begin(), tasks.end(), [](const TaskPlan* a, const TaskPlan* b) {
    return task_cost(*a) > task_cost(*b);
  });
  const auto whole = std::ssize(tasks) / ranks * ranks;
  place_many({tasks.begin(), tasks.begin() + whole}, ranks, rotation);
  place_few({tasks.begin() + whole, tasks.end()}, ranks, rotation, sweeps);
}

}  // namespace

void place_whole(TaskPlan& task, int rank) {
  task.owner = rank;
  task.split = false;
  for (MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) matrix.slices = {{rank, {0, matrix.linear.rows}}};
}

void forget_place(TaskPlan& task) {
  for (MatrixPlan& matrix : task.matrices) matrix.slices.clear();
}

std::vector<int> place_longest_first(const std::vector<double>& costs, int ranks) {
  std::vector<std::size_t> order(costs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  using Load = std::pair<double, int>;  // the least first, of equal ones the lower rank
  std::vector<Load> all;
  for (int r = 0; r < ranks; ++r) all.emplace_back(0.0, r);
  std::priority_queue<Load, std::vector<Load>, std::greater<>> least(std::greater<>{},
                                                                     std::move(all));
  std::vector<int> rank(costs.size(), 0);
  for (const std::size_t task : order) {
    const auto [load, chosen] = least.top();
    least.pop();
    rank[task] = chosen;
    least.emplace(load + costs[task], chosen);
  }
  return rank;
}

double task_cost(const TaskPlan& task) {
  const auto n = static_cast<double>(task.columns);
  return solve_cost(task) + (task.needs_hessian ? n * n * n / 3 : 0.0);
}

double placed_balance(const StagePlan& stage, int ranks) {
  std::vector<double> work(ranks, 0.0);
  for (const TaskPlan& task : stage.tasks) {
    const double solve = solve_cost(task);
    double rows = 0;
    for (const MatrixPlan& matrix : task.matrices)
      for (const Slice& slice : matrix.slices) rows += static_cast<double>(slice.rows.size());
    for (const MatrixPlan& matrix : task.matrices)
      for (const Slice& slice : matrix.slices)
        work[slice.rank] += solve * static_cast<double>(slice.rows.size()) / rows;
    work[task.owner] += task_cost(task) - solve;
  }
  const double busiest = *std::max_element(work.begin(), work.end());
  const double mean = std::accumulate(work.begin(), work.end(), 0.0) / ranks;
  return busiest > 0 ? mean / busiest : 1.0;
}

void place_stage(StagePlan& stage, int ranks, int rotation, int sweeps) {
  std::vector<TaskPlan*> tasks;
  for (TaskPlan& task : stage.tasks)
    if (solve_cost(task) > 0) tasks.push_back(&task);
  if (tasks.empty()) return;
  if (std::ssize(tasks) < ranks) {
    place_few(tasks, ranks, rotation, sweeps);
    stage.balance = placed_balance(stage, ranks);
    return;
  }
  place_many(tasks, ranks, rotation);
  stage.balance = placed_balance(stage, ranks);
  if (stage.balance >= kGoodBalance || std::ssize(tasks) % ranks == 0) return;
  for (TaskPlan* task : tasks) forget_place(*task);
  place_equally(tasks, ranks, rotation, sweeps);
  stage.balance = placed_balance(stage, ranks);
}

}  // namespace aq
