/// Sums are added along the tree of lanes, in pieces.
#include <algorithm>

#include "aq/comm/watchdog.h"
#include "comm/reduce.h"

namespace aq {
namespace {

constexpr Index kFloat = sizeof(float);
/// In place of a slot: the result of an owner that has no partial sum.
constexpr int kResult = -1;
/// The round behind all additions, in which the owner gets what others have of the whole sum.
constexpr int kLastRound = 64;

/// An addition, or in the last round a copy, of which this rank has one end or both.
struct Step {
  std::size_t reduction = 0;
  Addition move;
  bool adds() const { return move.round < kLastRound; }
  Index size() const { return move.values.size(); }
};

/// Runs reductions a group at a time, and a group round by round. No deadlock: all ranks follow one
/// order of transfers, and of all that are not done the first is the next one of both its ends,
/// wherever they cut their batches.
class TreeReducer {
 public:
  TreeReducer(Transport& transport, std::vector<Reduction>& reductions, const Exchange& exchange,
              const ReduceLimits& limits)
      : transport_(transport),
        rank_(transport.control().rank()),
        reductions_(reductions),
        exchange_(exchange),
        window_(std::max(limits.window_bytes, limits.least_piece_bytes) / kFloat),
        least_(std::max<Index>(1, limits.least_piece_bytes / kFloat)) {}

  /// Sums of at most a window together, at least one.
  std::size_t run_group(std::span<const std::size_t> order) {
    std::size_t count = 0;
    Index values = 0;
    std::vector<Step> steps;
    for (; count < order.size(); ++count) {
      values += reductions_[order[count]].values;
      if (count > 0 && values > window_) break;
      list_steps(order[count], steps);
    }
    std::stable_sort(steps.begin(), steps.end(),
                     [](const Step& a, const Step& b) { return a.move.round < b.move.round; });
    for (std::span<const Step> rest = steps; !rest.empty();) rest = rest.subspan(run_batch(rest));
    for (std::size_t i = 0; i < count; ++i) finish(order[i]);
    return count;
  }

 private:
  /// Where the owner has the result in the end: in its first partial sum, if it has one.
  Place result_of(std::size_t reduction) const {
    const int owner = reductions_[reduction].owner;
    for (std::size_t leaf = 0; leaf < exchange_.leaves.size(); ++leaf)
      if (exchange_.leaves[leaf].rank == owner && exchange_.at(reduction, leaf).tokens > 0)
        return {owner, exchange_.leaves[leaf].slot};
    return {owner, kResult};
  }

  void list_steps(std::size_t reduction, std::vector<Step>& steps) {
    const Index values = reductions_[reduction].values;
    const auto schedule =
        tree_schedule(exchange_.leaves, exchange_.present(reduction), values, least_);
    for (const Addition& addition : schedule.additions) add_step(reduction, addition, steps);
    const Place result = result_of(reduction);
    for (const auto& [range, at] : schedule.root)
      if (!(at == result)) add_step(reduction, {kLastRound, range, at, result}, steps);
    if (result == Place{rank_, kResult} && !schedule.root.empty())
      reductions_[reduction].result.values.resize(values);
  }

  /// In parts of at most a window.
  void add_step(std::size_t reduction, Addition move, std::vector<Step>& steps) const {
    if (move.from.rank != rank_ && move.to.rank != rank_) return;
    for (const Index end = move.values.end; move.values.begin < end;
         move.values.begin = move.values.end) {
      move.values.end = std::min(end, move.values.begin + window_);
      steps.push_back({reduction, move});
    }
  }

  bool sends(const Step& step) const { return step.move.to.rank != rank_; }
  bool receives(const Step& step) const { return step.move.from.rank != rank_; }

  /// The first of these steps, as many of one round as fit the window.
  std::size_t run_batch(std::span<const Step> steps) {
    Index sending = 0, receiving = 0;
    std::size_t count = 0;
    for (; count < steps.size() && steps[count].move.round == steps[0].move.round; ++count) {
      Index& in_flight = sends(steps[count]) ? sending : receiving;
      const Index values = sends(steps[count]) || receives(steps[count]) ? steps[count].size() : 0;
      if (in_flight > 0 && in_flight + values > window_) break;
      in_flight += values;
    }
    if (steps[0].adds() && std::ssize(received_) < receiving) received_.resize(receiving);
    transfer(steps.first(count));
    add(steps.first(count));
    return count;
  }

  void transfer(std::span<const Step> steps) {
    Index next = 0;
    for (const Step& step : steps) {
      const WorkLabel label("sum of " + reductions_[step.reduction].name);
      if (sends(step))
        transport_.start_send(host_buffer(std::span<const float>(part(step, step.move.from))),
                              step.move.to.rank, kReduceTag);
      else if (receives(step))
        transport_.start_receive(
            host_buffer(step.adds() ? received(step, next) : part(step, step.move.to)),
            step.move.from.rank, kReduceTag);
    }
    transport_.wait_all();
  }

  void add(std::span<const Step> steps) {
    Index next = 0;
    for (const Step& step : steps) {
      if (sends(step)) continue;
      const std::span<float> to = part(step, step.move.to);
      if (!step.adds()) {
        if (!receives(step)) std::ranges::copy(part(step, step.move.from), to.begin());
        continue;
      }
      const std::span<float> from =
          receives(step) ? received(step, next) : part(step, step.move.from);
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
    }
  }

  std::span<float> part(const Step& step, Place at) {
    Reduction& reduction = reductions_[step.reduction];
    auto& sum = at.slot == kResult ? reduction.result : reduction.partials[at.slot].sum;
    return std::span(sum.values).subspan(step.move.values.begin, step.size());
  }

  /// The place of the next values that come to be added.
  std::span<float> received(const Step& step, Index& next) {
    const Index begin = next;
    next += step.size();
    return std::span(received_).subspan(begin, step.size());
  }

  /// The owner's result, with the counts of all leaves; nothing stays of the partial sums.
  void finish(std::size_t reduction) {
    Reduction& own = reductions_[reduction];
    if (own.owner == rank_) {
      TreeSum counts;
      for (std::size_t leaf = 0; leaf < exchange_.leaves.size(); ++leaf) {
        const PartialHeader& header = exchange_.at(reduction, leaf);
        counts.add({exchange_.leaves[leaf].node, {{}, header.weight_sum, header.tokens}});
      }
      const WeightedSum& all = counts.partials().front().sum;
      if (const int slot = result_of(reduction).slot; slot != kResult)
        own.result.values = std::move(own.partials[slot].sum.values);
      own.result.weight_sum = all.weight_sum;
      own.result.tokens = all.tokens;
    }
    own.partials.clear();
  }

  Transport& transport_;
  int rank_;
  std::vector<Reduction>& reductions_;
  const Exchange& exchange_;
  Index window_, least_;   ///< values
  FloatArray received_{};  ///< in the batch under way, to be added
};

}  // namespace

void reduce_along_tree(Transport& transport, std::vector<Reduction>& reductions,
                       const Exchange& exchange, const ReduceLimits& limits) {
  TreeReducer reducer(transport, reductions, exchange, limits);
  const std::vector<std::size_t> order = alternate_owners(reductions);
  for (std::span<const std::size_t> rest = order; !rest.empty();)
    rest = rest.subspan(reducer.run_group(rest));
}

}  // namespace aq
