#include "aq/plan/dispatch.h"

#include <algorithm>
#include <numeric>

#include "plan/placement.h"

namespace aq {
namespace {

/// Multiply-adds of one expert: solving, and summing and running its tokens.
double expert_cost(const TaskPlan& gate_up, const TaskPlan& down, std::int64_t tokens) {
  const auto columns = [](const TaskPlan& task) { return static_cast<double>(task.columns); };
  const auto cross = [&](const TaskPlan& task) {
    return static_cast<double>(task.cross_rows) * columns(task);
  };
  const double sums = (columns(gate_up) * columns(gate_up) + columns(down) * columns(down)) / 2 +
                      cross(gate_up) + cross(down);
  // With its original weights too, where it is to be known what its tokens lack.
  const double runs = down.cross_rows > 0 ? 2 : 1;
  const double run = runs * 3 * columns(gate_up) * columns(down);
  return task_cost(gate_up) + task_cost(down) + static_cast<double>(tokens) * (sums + run);
}

void add_expert(const WavePlan& wave, Index position, ExpertTasks& tasks) {
  tasks.experts.push_back(wave.experts.begin + position);
  tasks.gate_up.tasks.push_back(wave.gate_up.tasks[position]);
  tasks.down.tasks.push_back(wave.down.tasks[position]);
}

/// Forgets where the tasks were placed.
void place_again(StagePlan& stage, int ranks, int rotation, int sweeps) {
  for (TaskPlan& task : stage.tasks) forget_place(task);
  place_stage(stage, ranks, rotation, sweeps);
}

/// What is known of one expert of a wave.
struct Candidate {
  Index position = 0;  ///< in the wave
  std::int64_t tokens = 0;
  double cost = 0;
  int owner = kEverywhere;
};

/// Takes experts from owners that have more than the limits, those with most tokens first.
void keep_limits(std::vector<Candidate>& candidates, const DispatchLimits& limits, int ranks) {
  if (limits.rows == 0) return;
  std::vector<std::vector<Candidate*>> owned(ranks);
  for (Candidate& candidate : candidates)
    if (candidate.owner != kEverywhere) owned[candidate.owner].push_back(&candidate);
  for (std::vector<Candidate*>& mine : owned) {
    std::stable_sort(mine.begin(), mine.end(),
                     [](const Candidate* a, const Candidate* b) { return a->tokens < b->tokens; });
    std::int64_t rows = 0;
    Index count = 0;
    for (Candidate* candidate : mine) {
      rows += candidate->tokens;
      ++count;
      if (rows > limits.rows || count > limits.experts) candidate->owner = kEverywhere;
    }
  }
}

/// Owners with equal work, none for experts that stay.
std::vector<Candidate> choose_owners(const WavePlan& wave, std::span<const std::int64_t> tokens,
                                     const std::vector<bool>& stays, int ranks) {
  std::vector<Candidate> candidates;
  double all = 0;
  for (Index i = 0; i < wave.experts.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t count = tokens[wave.experts.begin + i];
    const double cost = expert_cost(wave.gate_up.tasks[at], wave.down.tasks[at], count);
    candidates.push_back({i, count, cost});
    all += cost;
  }
  const auto owners = static_cast<double>(std::min<Index>(ranks, wave.experts.size()));
  std::vector<std::size_t> moving;
  std::vector<double> costs;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const bool hot = ranks > 1 && candidates[i].cost > kHotShare * all / owners;
    if (hot || stays[static_cast<std::size_t>(wave.experts.begin) + i]) continue;
    moving.push_back(i);
    costs.push_back(candidates[i].cost);
  }
  const int rotation = static_cast<int>(wave.experts.begin % ranks);
  const std::vector<int> placed = place_longest_first(costs, ranks);
  for (std::size_t i = 0; i < moving.size(); ++i)
    candidates[moving[i]].owner = (placed[i] + rotation) % ranks;
  keep_limits(candidates, wave.limits, ranks);
  return candidates;
}

}  // namespace

ExpertTasks whole_wave(const WavePlan& wave) {
  ExpertTasks tasks{{}, wave.gate_up, wave.down};
  for (Index e = wave.experts.begin; e < wave.experts.end; ++e) tasks.experts.push_back(e);
  return tasks;
}

WaveSplit split_wave(const WavePlan& wave, std::span<const std::int64_t> tokens,
                     const std::vector<bool>& stays, int ranks, int sweeps) {
  WaveSplit split;
  const Index most = wave.limits.reduced > 0 ? wave.limits.reduced : wave.experts.size();
  for (const Candidate& candidate : choose_owners(wave, tokens, stays, ranks)) {
    if (candidate.owner != kEverywhere) {
      add_expert(wave, candidate.position, split.dispatched);
      place_whole(split.dispatched.gate_up.tasks.back(), candidate.owner);
      place_whole(split.dispatched.down.tasks.back(), candidate.owner);
      continue;
    }
    if (split.reduced.empty() || std::ssize(split.reduced.back().experts) == most)
      split.reduced.emplace_back();
    add_expert(wave, candidate.position, split.reduced.back());
  }
  const int rotation = static_cast<int>(wave.experts.begin % ranks);
  for (ExpertTasks& tasks : split.reduced) {
    place_again(tasks.gate_up, ranks, rotation, sweeps);
    place_again(tasks.down, ranks, (rotation + 1) % ranks, sweeps);
  }
  return split;
}

ExpertPlacement place_experts(const LayerPlan& plan, std::span<const std::int64_t> tokens,
                              const std::vector<bool>& stays, int ranks) {
  ExpertPlacement placement(tokens.size(), kEverywhere);
  for (const WavePlan& wave : plan.waves) {
    if (!wave.is_routed()) continue;
    for (const Candidate& candidate : choose_owners(wave, tokens, stays, ranks))
      placement[wave.experts.begin + candidate.position] = candidate.owner;
  }
  return placement;
}

}  // namespace aq
