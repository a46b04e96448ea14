#include "pipeline/expert_outputs.h"

#include <algorithm>

namespace aq {
namespace {

/// Ranges of `experts` of which no rank has more rows than the rank with the most has tokens, or
/// of one expert. The same on every rank.
std::vector<Range> rounds_of(Communicator& comm, const ExpertRun& run,
                             std::span<const Index> experts) {
  std::vector<std::int64_t> most;
  for (const Index expert : experts)
    most.push_back(run.routing.experts[static_cast<std::size_t>(expert)].size());
  most.push_back(run.batch.rows());
  comm.all_reduce_max(most);
  std::vector<Range> rounds;
  std::int64_t rows = 0;
  for (Index i = 0; i < std::ssize(experts); ++i) {
    rows += most[static_cast<std::size_t>(i)];
    if (rounds.empty() || rows > most.back()) {
      rounds.push_back({i, i});
      rows = most[static_cast<std::size_t>(i)];
    }
    rounds.back().end = i + 1;
  }
  return rounds;
}

}  // namespace

void add_expert_outputs(Dispatch& dispatch, const ExpertRun& run, std::span<const Index> stay,
                        std::vector<Matrix> hidden, PhaseTimes& times, Matrix& y) {
  const std::span<const Index> away = dispatch.experts();
  std::vector<Index> all(away.size() + stay.size());
  std::merge(away.begin(), away.end(), stay.begin(), stay.end(), all.begin());
  Index next_away = 0, next_stay = 0;
  for (const Range& round : rounds_of(dispatch.communicator(), run, all)) {
    const Index last = all[static_cast<std::size_t>(round.end) - 1];
    const auto until_last = [last](std::span<const Index> experts) {
      return std::upper_bound(experts.begin(), experts.end(), last) - experts.begin();
    };
    const Range travel{next_away, until_last(away)}, local{next_stay, until_last(stay)};
    next_away = travel.end;
    next_stay = local.end;
    const auto some_away = away.subspan(static_cast<std::size_t>(travel.begin),
                                        static_cast<std::size_t>(travel.size()));
    const auto some_local =
        stay.subspan(static_cast<std::size_t>(local.begin), static_cast<std::size_t>(local.size()));
    std::vector<Matrix> outputs, back;
    {
      const PhaseTimer timer(times, "forward");
      std::vector<Matrix> inputs;
      for (Index i = travel.begin; i < travel.end; ++i)
        inputs.push_back(std::move(hidden[static_cast<std::size_t>(i)]));
      outputs = run_down(run.layer, run.weights, dispatch.batch(), dispatch.routing(), some_away,
                         std::move(inputs));
    }
    {
      const PhaseTimer timer(times, "dispatch");
      back = dispatch.bring_back(travel, std::move(outputs), run.normed.columns);
    }
    const PhaseTimer timer(times, "forward");
    const std::vector<Matrix> here = run_down(
        run.layer, run.weights, run.batch, run.routing, some_local,
        hidden_of_experts(run.layer, run.weights, run.batch, run.normed, run.routing, some_local));
    std::map<Index, const Matrix*> added;
    for (std::size_t i = 0; i < back.size(); ++i) added[some_away[i]] = &back[i];
    for (std::size_t i = 0; i < here.size(); ++i) added[some_local[i]] = &here[i];
    add_outputs(run.batch, run.routing, added, y);
  }
}

void run_wave(Communicator& comm, const LaneLayout& lanes, std::span<const int> owners,
              const ExpertRun& run, Range wave, Matrix& y) {
  std::vector<Index> stay, away;
  std::vector<int> homes;
  for (Index e = wave.begin; e < wave.end; ++e) {
    const int owner = owners[static_cast<std::size_t>(e)];
    (owner == kEverywhere ? stay : away).push_back(e);
    if (owner != kEverywhere) homes.push_back(owner);
  }
  Dispatch dispatch(comm, lanes, run.batch, run.routing, away, homes);
  std::vector<Matrix> hidden;
  {
    const Matrix gathered = dispatch.gather(run.normed);
    hidden = hidden_of_experts(run.layer, run.weights, dispatch.batch(), gathered,
                               dispatch.routing(), away);
  }
  PhaseTimes unused;  // the caller measures the whole
  add_expert_outputs(dispatch, run, stay, std::move(hidden), unused, y);
}

}  // namespace aq
