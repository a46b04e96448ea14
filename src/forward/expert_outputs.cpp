#include "aq/forward/expert_outputs.h"

#include <algorithm>
#include <map>

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

/// down of the dispatched experts that live here, in ascending order and some ahead: owners work at
/// the same time, whosever turn it is to send.
class OwnOutputs {
 public:
  OwnOutputs(Dispatch& dispatch, const ExpertRun& run, std::vector<Matrix> hidden, Index ahead)
      : dispatch_(dispatch),
        run_(run),
        hidden_(std::move(hidden)),
        outputs_(dispatch.experts().size()),
        ahead_(ahead) {}

  /// Those of `some` positions, each of which is asked for once and in order.
  std::vector<Matrix> take(Range some, PhaseTimes& times) {
    if (done_ < some.end) make(some, times);
    std::vector<Matrix> taken;
    for (Index i = some.begin; i < some.end; ++i)
      taken.push_back(std::move(outputs_[static_cast<std::size_t>(i)]));
    return taken;
  }

 private:
  /// As many as give `ahead_` rows with those that are waiting, and all of `some`.
  void make(Range some, PhaseTimes& times) {
    const PhaseTimer timer(times, Phase::forward);
    const std::span<const Index> experts = dispatch_.experts();
    Index end = some.begin, rows = 0;
    for (; end < std::ssize(experts); ++end) {
      const auto expert = static_cast<std::size_t>(experts[static_cast<std::size_t>(end)]);
      rows += dispatch_.routing().experts[expert].size();
      if (rows > ahead_ && end >= some.end) break;
    }
    const auto begin = static_cast<std::size_t>(done_);
    const auto count = static_cast<std::size_t>(end - done_);
    std::vector<Matrix> inputs(count);
    for (std::size_t i = 0; i < count; ++i) inputs[i] = std::move(hidden_[begin + i]);
    std::vector<Matrix> made =
        run_down(run_.layer, run_.weights, dispatch_.batch(), dispatch_.routing(),
                 experts.subspan(begin, count), std::move(inputs));
    std::move(made.begin(), made.end(), outputs_.begin() + done_);
    done_ = end;
  }

  Dispatch& dispatch_;
  const ExpertRun& run_;
  std::vector<Matrix> hidden_, outputs_;  ///< by position among the dispatched experts
  Index ahead_, done_ = 0;
};

}  // namespace

void add_expert_outputs(Dispatch& dispatch, const ExpertRun& run, std::span<const Index> stay,
                        std::vector<Matrix> hidden, PhaseTimes& times, Matrix& y) {
  const std::span<const Index> away = dispatch.experts();
  std::vector<Index> all(away.size() + stay.size());
  std::merge(away.begin(), away.end(), stay.begin(), stay.end(), all.begin());
  OwnOutputs own(dispatch, run, std::move(hidden), dispatch.all_tokens());
  Index next_away = 0, next_stay = 0;
  for (const Range& round : rounds_of(dispatch.communicator(), run, all)) {
    const Index last = all[static_cast<std::size_t>(round.end) - 1];
    const auto until_last = [last](std::span<const Index> experts) {
      return std::upper_bound(experts.begin(), experts.end(), last) - experts.begin();
    };
    const Range travel{next_away, until_last(away)}, local{next_stay, until_last(stay)};
    next_away = travel.end;
    next_stay = local.end;
    const auto some_local =
        stay.subspan(static_cast<std::size_t>(local.begin), static_cast<std::size_t>(local.size()));
    std::vector<Matrix> outputs = own.take(travel, times), back;
    {
      const PhaseTimer timer(times, Phase::dispatch);
      back = dispatch.bring_back(travel, std::move(outputs), run.normed.columns);
    }
    const PhaseTimer timer(times, Phase::forward);
    const std::vector<Matrix> here = run_down(
        run.layer, run.weights, run.batch, run.routing, some_local,
        hidden_of_experts(run.layer, run.weights, run.batch, run.normed, run.routing, some_local));
    std::map<Index, const Matrix*> added;
    for (std::size_t i = 0; i < back.size(); ++i)
      added[away[static_cast<std::size_t>(travel.begin) + i]] = &back[i];
    for (std::size_t i = 0; i < here.size(); ++i) added[some_local[i]] = &here[i];
    add_outputs(run.batch, run.routing, added, y);
  }
}

std::vector<Range> cut_by_rows(Range wave, std::span<const int> owners,
                               std::span<const std::int64_t> tokens, Index most) {
  if (most == 0) return {wave};
  std::vector<Range> parts{{wave.begin, wave.begin}};
  std::map<int, Index> rows;
  for (Index e = wave.begin; e < wave.end; ++e) {
    const auto at = static_cast<std::size_t>(e);
    if (owners[at] != kEverywhere && rows[owners[at]] + tokens[at] > most &&
        parts.back().size() > 0) {
      parts.push_back({e, e});
      rows.clear();
    }
    if (owners[at] != kEverywhere) rows[owners[at]] += tokens[at];
    parts.back().end = e + 1;
  }
  return parts;
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
