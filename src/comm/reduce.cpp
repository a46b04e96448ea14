/// Partial sums travel to their owners in one order that all ranks derive from the same counts.

#include <algorithm>
#include <bit>
#include <deque>
#include <map>
#include <span>

#include "aq/comm/lanes.h"
#include "aq/comm/watchdog.h"
#include "aq/core/bytes.h"
#include "aq/core/hash.h"

namespace aq {
namespace {

constexpr int kReduceTag = 7001;

/// What every rank knows about a partial before any sum travels.
struct PartialHeader {
  std::int64_t tokens = 0;
  double weight_sum = 0;
};

/// Headers of every rank's partials: headers[rank][reduction * nodes of that rank + node].
struct Exchange {
  std::vector<std::vector<TreeNode>> nodes;  ///< the maximal subtrees of each rank
  std::vector<std::vector<PartialHeader>> headers;

  const PartialHeader& at(std::size_t rank, std::size_t reduction, std::size_t node) const {
    return headers[rank][reduction * nodes[rank].size() + node];
  }
};

/// One partial as this rank meets it: to be added here, or to be sent away.
struct Step {
  std::size_t reduction = 0;
  std::size_t from = 0;  ///< rank that has the partial
  std::size_t node = 0;  ///< which of that rank's subtrees
};

/// Hash of what must be equal on all ranks: a difference is a bug that would hang otherwise.
std::uint64_t digest(const LaneLayout& layout, const std::vector<Reduction>& reductions) {
  std::vector<Index> facts{layout.sequences, layout.lanes};
  for (const Reduction& reduction : reductions)
    facts.insert(facts.end(), {reduction.owner, reduction.values});
  return xxh64(std::as_bytes(std::span(facts)));
}

void check_partials(const Reduction& reduction, const std::vector<TreeNode>& nodes, int size) {
  AQ_CHECK(reduction.owner >= 0 && reduction.owner < size, "owner ", reduction.owner, " of ", size);
  AQ_CHECK(reduction.partials.empty() || reduction.partials.size() == nodes.size(),
           reduction.partials.size(), " partials for ", nodes.size(), " subtrees");
  for (std::size_t i = 0; i < reduction.partials.size(); ++i) {
    const auto& [node, sum] = reduction.partials[i];
    AQ_CHECK(node == nodes[i], "partial ", i, " is node ", node.index, " of level ", node.level);
    AQ_CHECK(sum.empty() || static_cast<Index>(sum.values.size()) == reduction.values,
             sum.values.size(), " values instead of ", reduction.values);
  }
}

/// Every rank's headers, from one all-gather of 16 bytes a partial. Lanes are at most 64 as a
/// rule, so the whole table is small whatever the rank count.
Exchange exchange_headers(Communicator& comm, const LaneLayout& layout,
                          const std::vector<Reduction>& reductions) {
  Exchange exchange;
  for (int r = 0; r < comm.size(); ++r)
    exchange.nodes.push_back(maximal_subtrees(layout.lanes_of_rank(r, comm.size())));
  const auto& own_nodes = exchange.nodes[comm.rank()];

  const std::uint64_t own_digest = digest(layout, reductions);
  ByteWriter message;
  message.value(own_digest);
  for (const Reduction& reduction : reductions) {
    check_partials(reduction, own_nodes, comm.size());
    for (std::size_t n = 0; n < own_nodes.size(); ++n) {
      const bool present = !reduction.partials.empty() && !reduction.partials[n].sum.empty();
      message.value(present ? PartialHeader{reduction.partials[n].sum.tokens,
                                            reduction.partials[n].sum.weight_sum}
                            : PartialHeader{});
    }
  }
  const WorkLabel label("token counts of all sums");
  const auto all = comm.all_gather(message.take());
  for (std::size_t r = 0; r < all.size(); ++r) {
    ByteReader in(all[r]);
    AQ_CHECK(in.value<std::uint64_t>() == own_digest, "rank ", r,
             " lists other reductions than rank ", comm.rank());
    exchange.headers.push_back(
        in.values<PartialHeader>(std::ssize(reductions) * std::ssize(exchange.nodes[r])));
    AQ_CHECK(in.at_end(), "rank ", r, " lists more partials");
  }
  return exchange;
}

/// The reductions, one of each owner in turn, so that no owner is everybody's target at once.
std::vector<std::size_t> alternate_owners(const std::vector<Reduction>& reductions) {
  std::map<int, std::size_t> seen;
  std::vector<std::pair<std::size_t, std::size_t>> turns;  // (turn, reduction)
  for (std::size_t i = 0; i < reductions.size(); ++i)
    turns.emplace_back(seen[reductions[i].owner]++, i);
  std::sort(turns.begin(), turns.end());
  std::vector<std::size_t> order;
  for (const auto& [turn, reduction] : turns) order.push_back(reduction);
  return order;
}

/// What this rank adds or sends, in the one order that all ranks follow: by reduction, and within a
/// reduction by lane. No deadlock: of all transfers that are not done, the first in this order is
/// the next one both for its sender and for its receiver, wherever they cut their batches.
std::vector<Step> list_steps(const std::vector<Reduction>& reductions, const Exchange& exchange,
                             std::size_t rank) {
  std::vector<Step> steps;
  for (const std::size_t i : alternate_owners(reductions)) {
    const bool owned = reductions[i].owner == static_cast<int>(rank);
    for (std::size_t from = 0; from < exchange.nodes.size(); ++from) {
      if (!owned && from != rank) continue;
      for (std::size_t node = 0; node < exchange.nodes[from].size(); ++node)
        if (owned || exchange.at(from, i, node).tokens > 0) steps.push_back({i, from, node});
    }
  }
  return steps;
}

/// Runs the steps of one rank.
class Reducer {
 public:
  Reducer(Transport& transport, const LaneLayout& layout, std::vector<Reduction>& reductions,
          const Exchange& exchange)
      : transport_(transport),
        rank_(transport.control().rank()),
        reductions_(reductions),
        exchange_(exchange),
        root_{std::countr_zero(static_cast<std::uint64_t>(layout.lanes)), 0} {}

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
      reduction.partials[step.node].sum = {};
      return;
    }
    tree_.add({exchange_.nodes[step.from][step.node], take_sum(step)});
    if (tree_.partials().back().node != root_) return;
    reduction.result = std::move(tree_.take().front().sum);
    tree_ = {};
  }

 private:
  bool owned(const Step& step) const { return reductions_[step.reduction].owner == rank_; }
  bool local(const Step& step) const { return static_cast<int>(step.from) == rank_; }

  /// Bytes that travel for a step: none for a sum that stays here or is empty.
  Index transfer_bytes(const Step& step) const {
    const bool stays = owned(step) && local(step);
    if (stays || exchange_.at(step.from, step.reduction, step.node).tokens == 0) return 0;
    return reductions_[step.reduction].values * static_cast<Index>(sizeof(float));
  }

  void start(const Step& step) {
    Reduction& reduction = reductions_[step.reduction];
    const WorkLabel label("sum of " + reduction.name);
    if (!owned(step)) {
      const std::span<const float> values(reduction.partials[step.node].sum.values);
      transport_.start_send(host_buffer(values), reduction.owner, kReduceTag);
      return;
    }
    auto& buffer = received_.emplace_back(static_cast<std::size_t>(reduction.values));
    transport_.start_receive(host_buffer(std::span(buffer)), static_cast<int>(step.from),
                             kReduceTag);
  }

  WeightedSum take_sum(const Step& step) {
    const PartialHeader& header = exchange_.at(step.from, step.reduction, step.node);
    if (header.tokens == 0) return {};
    if (local(step)) return std::move(reductions_[step.reduction].partials[step.node].sum);
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
  std::deque<std::vector<float>> received_;  ///< of the batch under way, in the order of its steps
  TreeNode root_;
  TreeSum tree_;  ///< of the owned reduction that is being added
};

}  // namespace

void reduce_to_owners(Transport& transport, const LaneLayout& layout,
                      std::vector<Reduction>& reductions, Index window_bytes) {
  Communicator& comm = transport.control();
  AQ_CHECK(std::has_single_bit(static_cast<std::uint64_t>(layout.lanes)), layout.lanes, " lanes");
  const Exchange exchange = exchange_headers(comm, layout, reductions);
  const std::vector<Step> steps =
      list_steps(reductions, exchange, static_cast<std::size_t>(comm.rank()));
  Reducer reducer(transport, layout, reductions, exchange);
  for (std::size_t begin = 0; begin < steps.size();) {
    const std::size_t end = reducer.start_batch(steps, begin, window_bytes);
    transport.wait_all();
    for (; begin < end; ++begin) reducer.finish_step(steps[begin]);
  }
  for (Reduction& reduction : reductions) reduction.partials.clear();
}

}  // namespace aq
