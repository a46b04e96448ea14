/// Headers of all partial sums, and the choice of the way, which all ranks derive from them.
#include "comm/reduce.h"

#include <algorithm>
#include <bit>
#include <map>
#include <span>

#include "aq/comm/watchdog.h"
#include "aq/core/bytes.h"
#include "aq/core/hash.h"

namespace aq {
namespace {

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

/// The digest, and a header of each of this rank's partials.
std::vector<std::byte> own_headers(Communicator& comm, const LaneLayout& layout,
                                   const std::vector<Reduction>& reductions,
                                   std::uint64_t own_digest) {
  const auto nodes = maximal_subtrees(layout.lanes_of_rank(comm.rank(), comm.size()));
  ByteWriter message;
  message.value(own_digest);
  for (const Reduction& reduction : reductions) {
    check_partials(reduction, nodes, comm.size());
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      const bool present = !reduction.partials.empty() && !reduction.partials[n].sum.empty();
      message.value(present ? PartialHeader{reduction.partials[n].sum.tokens,
                                            reduction.partials[n].sum.weight_sum}
                            : PartialHeader{});
    }
  }
  return message.take();
}

/// Every rank's headers, from one all-gather of 16 bytes a partial: a few KB a reduction at most,
/// whatever the rank count.
Exchange exchange_headers(Communicator& comm, const LaneLayout& layout,
                          const std::vector<Reduction>& reductions) {
  const WorkLabel label("token counts of all sums");
  const std::uint64_t own_digest = digest(layout, reductions);
  const auto all = comm.all_gather(own_headers(comm, layout, reductions, own_digest));
  Exchange exchange{tree_leaves(layout, comm.size()), {}};
  exchange.headers.resize(exchange.leaves.size());
  std::size_t begin = 0, end = 0;  // the leaves of a rank
  for (int rank = 0; rank < comm.size(); ++rank, begin = end) {
    ByteReader in(all[rank]);
    AQ_CHECK(in.value<std::uint64_t>() == own_digest, "rank ", rank,
             " lists other reductions than rank ", comm.rank());
    while (end < exchange.leaves.size() && exchange.leaves[end].rank == rank) ++end;
    for (std::size_t i = 0; i < reductions.size(); ++i)
      for (std::size_t leaf = begin; leaf < end; ++leaf)
        exchange.headers[leaf].push_back(in.value<PartialHeader>());
    AQ_CHECK(in.at_end(), "rank ", rank, " lists more partials");
  }
  return exchange;
}

/// Sums of one length that have tokens in the same leaves move alike.
bool goes_along_tree(const std::vector<Reduction>& reductions, const Exchange& exchange, int ranks,
                     const ReduceLimits& limits) {
  std::map<std::pair<Index, std::vector<bool>>, std::vector<int>> owners;
  for (std::size_t i = 0; i < reductions.size(); ++i)
    owners[{reductions[i].values, exchange.present(i)}].push_back(reductions[i].owner);
  ReduceWays ways(ranks);
  for (const auto& [sum, of] : owners)
    ways.add(
        traffic_of_sum(exchange.leaves, sum.second, ranks, sum.first, limits.least_piece_bytes),
        of);
  return ways.along_tree();
}

}  // namespace

std::vector<bool> Exchange::present(std::size_t reduction) const {
  std::vector<bool> present;
  for (const std::vector<PartialHeader>& leaf : headers)
    present.push_back(leaf[reduction].tokens > 0);
  return present;
}

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

void reduce_to_owners(Transport& transport, const LaneLayout& layout,
                      std::vector<Reduction>& reductions, const ReduceLimits& limits) {
  Communicator& comm = transport.control();
  AQ_CHECK(std::has_single_bit(static_cast<std::uint64_t>(layout.lanes)), layout.lanes, " lanes");
  const Exchange exchange = exchange_headers(comm, layout, reductions);
  if (goes_along_tree(reductions, exchange, comm.size(), limits))
    reduce_along_tree(transport, reductions, exchange, limits);
  else
    reduce_direct(transport, reductions, exchange, limits.window_bytes);
  for (Reduction& reduction : reductions) reduction.partials.clear();
}

}  // namespace aq
