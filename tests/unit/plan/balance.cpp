#include "balance.h"

#include <algorithm>
#include <numeric>

namespace aq {
namespace {

double mean_to_most(const std::vector<double>& work) {
  const double most = *std::max_element(work.begin(), work.end());
  const double mean =
      std::accumulate(work.begin(), work.end(), 0.0) / static_cast<double>(work.size());
  return most > 0 ? mean / most : 1;
}

}  // namespace

double solver_balance(const StagePlan& stage, int ranks, std::span<const Index> tokens,
                      int sweeps) {
  AQ_CHECK(tokens.size() == stage.tasks.size(), tokens.size(), " counts");
  std::vector<double> work(ranks, 0);
  for (std::size_t i = 0; i < stage.tasks.size(); ++i) {
    const TaskPlan& task = stage.tasks[i];
    const auto n = static_cast<double>(task.columns);
    const auto count = static_cast<double>(tokens[i]);
    const bool solves = task.needs_hessian && count > 0;
    const double passes = count >= kRefineTokensPerColumn * n ? 1 + 2 * sweeps : 1;
    if (solves) work[task.owner] += n * n * n / 3;
    for (const MatrixPlan& matrix : task.matrices)
      for (const Slice& slice : matrix.slices)
        work[slice.rank] += static_cast<double>(slice.rows.size()) * n * (solves ? n * passes : 1);
  }
  return mean_to_most(work);
}

double token_balance(const StagePlan& stage, int ranks, std::span<const Index> tokens) {
  AQ_CHECK(tokens.size() == stage.tasks.size(), tokens.size(), " counts");
  std::vector<double> work(ranks, 0);
  for (std::size_t i = 0; i < stage.tasks.size(); ++i)
    work[stage.tasks[i].owner] += static_cast<double>(tokens[i]);
  return mean_to_most(work);
}

}  // namespace aq
