#include "aq/forward/dispatched_run.h"

#include <algorithm>
#include <map>

#include "aq/comm/timed.h"

namespace aq {
namespace {

/// Ranges of `experts` of which no rank has more rows than the rank with the most has tokens, or
/// of one expert. The same on every rank.
std::vector<Range> rounds_of(Communicator& comm, const ExpertPass& home,
                             std::span<const Index> experts) {
  std::vector<std::int64_t> most;
  for (const Index expert : experts) most.push_back(home.tokens(expert).size());
  most.push_back(home.batch.rows());
  comm.all_reduce_max(most);
  std::vector<Range> rounds;
  std::int64_t rows = 0;
  for (Index i = 0; i < std::ssize(experts); ++i) {
    rows += most[i];
    if (rounds.empty() || rows > most.back()) {
      rounds.push_back({i, i});
      rows = most[i];
    }
    rounds.back().end = i + 1;
  }
  return rounds;
}

/// down of the dispatched experts that live here, in ascending order and some before their round:
/// so owners work at the same time, whosever turn it is to send.
class OwnOutputs {
 public:
  OwnOutputs(Dispatch& dispatch, ByExpert hidden)
      : dispatch_(dispatch), hidden_(std::move(hidden)) {}

  /// Those of experts()[some]; ranges are asked for in order, each once.
  ByExpert take(Range some) {
    if (done_ < some.end) make(some);
    ByExpert taken;
    for (Index i = some.begin; i < some.end; ++i)
      if (auto node = outputs_.extract(expert(i))) taken.insert(std::move(node));
    return taken;
  }

 private:
  Index expert(Index place) const { return dispatch_.experts()[place]; }

  /// All of `some`, and more while those that wait have no more rows than all ranks have tokens.
  void make(Range some) {
    Index end = some.begin, rows = 0;
    for (; end < std::ssize(dispatch_.experts()); ++end) {
      rows += dispatch_.owner().tokens(expert(end)).size();
      if (rows > dispatch_.all_tokens() && end >= some.end) break;
    }
    ByExpert inputs;
    for (; done_ < end; ++done_)
      if (auto node = hidden_.extract(expert(done_))) inputs.insert(std::move(node));
    outputs_.merge(dispatch_.owner().outputs(std::move(inputs)));
  }

  Dispatch& dispatch_;
  ByExpert hidden_, outputs_;
  Index done_ = 0;
};

/// The range of ascending `experts` from `begin` on that ends with `last`.
Range until(std::span<const Index> experts, Index begin, Index last) {
  return {begin, std::upper_bound(experts.begin(), experts.end(), last) - experts.begin()};
}

}  // namespace

void combine_outputs(Dispatch& dispatch, std::span<const Index> stay, ByExpert hidden,
                     PhaseTimes& times, Tensor& y) {
  const ExpertPass& home = dispatch.home();
  const std::span<const Index> away = dispatch.experts();
  std::vector<Index> all(away.size() + stay.size());
  std::merge(away.begin(), away.end(), stay.begin(), stay.end(), all.begin());
  OwnOutputs own(dispatch, std::move(hidden));
  Range travel, local;
  for (const Range& round : rounds_of(dispatch.communicator(), home, all)) {
    const Index last = all[static_cast<std::size_t>(round.end) - 1];
    travel = until(away, travel.end, last);
    local = until(stay, local.end, last);
    ByExpert outputs =
        timed(times, Phase::forward, "experts that live here", [&] { return own.take(travel); });
    outputs = timed(times, Phase::dispatch, "outputs of experts",
                    [&] { return dispatch.combine(travel, std::move(outputs)); });
    timed(times, Phase::forward, "experts that stay", [&] {
      const auto some = stay.subspan(local.begin, local.size());
      outputs.merge(home.outputs(home.hidden(some)));
      home.add(outputs, y);
    });
  }
}

std::vector<Range> cut_by_rows(Range wave, const ExpertPlacement& placement,
                               std::span<const std::int64_t> tokens, Index most) {
  if (most == 0) return {wave};
  std::vector<Range> parts{{wave.begin, wave.begin}};
  std::map<int, Index> rows;
  for (Index e = wave.begin; e < wave.end; ++e) {
    const auto at = static_cast<std::size_t>(e);
    const int owner = placement[at];
    if (owner != kEverywhere && rows[owner] + tokens[at] > most && parts.back().size() > 0) {
      parts.push_back({e, e});
      rows.clear();
    }
    if (owner != kEverywhere) rows[owner] += tokens[at];
    parts.back().end = e + 1;
  }
  return parts;
}

namespace {

/// y += the outputs of the experts `part`. Collective.
void run_part(const DispatchedRun& run, const ExpertPass& home, const ExpertPlacement& placement,
              Range part, PhaseTimes& times, Tensor& y) {
  std::vector<Index> stay, away;
  std::vector<int> owners;
  for (Index e = part.begin; e < part.end; ++e) {
    const int owner = placement[e];
    (owner == kEverywhere ? stay : away).push_back(e);
    if (owner != kEverywhere) owners.push_back(owner);
  }
  Dispatch dispatch(run.transport, run.lanes, home, away, owners);
  timed(times, Phase::dispatch, "inputs of experts", [&] { dispatch.gather(); });
  ByExpert hidden = timed(times, Phase::forward, "gate and up of experts that live here",
                          [&] { return dispatch.owner().hidden(away); });
  dispatch.forget_inputs();
  combine_outputs(dispatch, stay, std::move(hidden), times, y);
}

}  // namespace

void DispatchedRun::run(const ExpertPass& home, PhaseTimes& times, Tensor& y) const {
  std::vector<std::int64_t> tokens = routed_tokens(home.layer, home.routing);
  transport.control().all_reduce_sum(tokens);
  const ExpertPlacement placement = place(tokens);
  for (const WavePlan& wave : plan.waves) {
    if (!wave.is_routed()) continue;
    for (const Range& part : cut_by_rows(wave.experts, placement, tokens, wave.limits.rows))
      run_part(*this, home, placement, part, times, y);
  }
}

}  // namespace aq
