/// Every partial sum travels to its owner, which adds all of them.
#include <deque>

#include "aq/comm/watchdog.h"
#include "comm/reduce.h"

namespace aq {
namespace {

/// One partial as this rank meets it: to be added here, or to be sent away.
struct Step {
  std::size_t reduction = 0;
  std::size_t leaf = 0;
};

/// What this rank adds or sends, in the one order that all ranks follow: by reduction, and within a
/// reduction by lane. No deadlock: of all transfers that are not done, the first in this order is
/// the next one both for its sender and for its receiver, wherever they cut their batches.
std::vector<Step> list_steps(const std::vector<Reduction>& reductions, const Exchange& exchange,
                             int rank) {
  std::vector<Step> steps;
  for (const std::size_t i : alternate_owners(reductions)) {
    const bool owned = reductions[i].owner == rank;
    for (std::size_t leaf = 0; leaf < exchange.leaves.size(); ++leaf) {
      const bool sends = exchange.leaves[leaf].rank == rank && exchange.at(i, leaf).tokens > 0;
      if (owned || sends) steps.push_back({i, leaf});
    }
  }
  return steps;
}

/// Runs the steps of one rank.
class Reducer {
 public:
  Reducer(Transport& transport, std::vector<Reduction>& reductions, const Exchange& exchange)
      : transport_(transport),
        rank_(transport.control().rank()),
        reductions_(reductions),
        exchange_(exchange) {}

  /// Starts the transfers of steps [begin, end), as many as fit the window (at least one).
  std::size_t start_batch(const std::vector<Step>& steps, std::size_t begin, Index window_bytes) {
    Index receiving = 0;
    Index sending = 0;
    std::size_t end = begin;
    for (; end < steps.size(); ++end) {
      const Step& step = steps[end];
      const Index bytes = transfer_bytes(step);
      Index& in_flight = owned(step) ? receiving : sending;
      if (in_flight > 0 && bytes > 0 && in_flight + bytes > window_bytes) break;
      in_flight += bytes;
      if (bytes > 0) start(step);
    }
    return end;
  }

  /// Adds what has come and frees what has gone. Steps of one reduction come in tree order.
  void finish_step(const Step& step) {
    Reduction& reduction = reductions_[step.reduction];
    if (!owned(step)) {
      reduction.partials[leaf(step).slot].sum = {};
      return;
    }
    tree_.add({leaf(step).node, take_sum(step)});
    if (step.leaf + 1 < exchange_.leaves.size()) return;
    reduction.result = std::move(tree_.take().front().sum);
    tree_ = {};
  }

 private:
  const Leaf& leaf(const Step& step) const { return exchange_.leaves[step.leaf]; }
  bool owned(const Step& step) const { return reductions_[step.reduction].owner == rank_; }
  bool local(const Step& step) const { return leaf(step).rank == rank_; }

  /// Bytes that travel for a step: none for a sum that stays here or is empty.
  Index transfer_bytes(const Step& step) const {
    const bool stays = owned(step) && local(step);
    if (stays || exchange_.at(step.reduction, step.leaf).tokens == 0) return 0;
    return reductions_[step.reduction].values * static_cast<Index>(sizeof(float));
  }

  void start(const Step& step) {
    Reduction& reduction = reductions_[step.reduction];
    const WorkLabel label("sum of " + reduction.name);
    if (!owned(step)) {
      const std::span<const float> values(reduction.partials[leaf(step).slot].sum.values);
      transport_.start_send(host_buffer(values), reduction.owner, kReduceTag);
      return;
    }
    auto& buffer = received_.emplace_back(static_cast<std::size_t>(reduction.values));
    transport_.start_receive(host_buffer(std::span(buffer)), leaf(step).rank, kReduceTag);
  }

  WeightedSum take_sum(const Step& step) {
    const PartialHeader& header = exchange_.at(step.reduction, step.leaf);
    if (header.tokens == 0) return {};
    if (local(step)) return std::move(reductions_[step.reduction].partials[leaf(step).slot].sum);
    WeightedSum sum{{}, header.weight_sum, header.tokens};
    if (transfer_bytes(step) > 0) {
      sum.values = std::move(received_.front());
      received_.pop_front();
    }
    return sum;
  }

  Transport& transport_;
  int rank_;
  std::vector<Reduction>& reductions_;
  const Exchange& exchange_;
  /// Of the batch under way, in the order of its steps.
  std::deque<FloatArray> received_;
  TreeSum tree_;  ///< of the owned reduction that is being added
};

}  // namespace

void reduce_direct(Transport& transport, std::vector<Reduction>& reductions,
                   const Exchange& exchange, Index window_bytes) {
  const std::vector<Step> steps = list_steps(reductions, exchange, transport.control().rank());
  Reducer reducer(transport, reductions, exchange);
  for (std::size_t begin = 0; begin < steps.size();) {
    const std::size_t end = reducer.start_batch(steps, begin, window_bytes);
    transport.wait_all();
    for (; begin < end; ++begin) reducer.finish_step(steps[begin]);
  }
}

}  // namespace aq
