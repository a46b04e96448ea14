#include "plan/memory.h"

#include <algorithm>
#include <bit>

namespace aq {
namespace {

constexpr Index kFloat = 4;
/// Most that an owner of dispatched experts has, of an even share of them and of their tokens;
/// and so many tokens more, because few are never even.
constexpr Index kOwnerPercent = 150;
constexpr Index kOwnerRows = 64;

}  // namespace

MemoryEstimate& MemoryEstimate::operator+=(const MemoryEstimate& other) {
  activations += other.activations;
  buffers += other.buffers;
  hessians += other.hessians;
  weights += other.weights;
  libraries += other.libraries;
  offloaded += other.offloaded;
  return *this;
}

Index packed_bytes(const Scheme& scheme, Index rows, Index columns) {
  const Index scales = scale_count(scheme, rows, columns);
  return rows * words_per_row(scheme.bits, columns) * kFloat + scales * kFloat +
         (scheme.symmetric ? 0 : scales);
}

Index most_pending_partials(const LaneLayout& layout, int ranks) {
  Index most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range lanes = layout.lanes_of_rank(rank, ranks);
    for (Index end = lanes.begin; end <= lanes.end; ++end)
      most = std::max(most, static_cast<Index>(maximal_subtrees({lanes.begin, end}).size()));
  }
  return most + 1;  // and the lane in work
}

Index reduce_buffers(const RankShare& share, Index tasks, Index sum_bytes, bool along_tree) {
  if (share.inbound == 0) return 0;
  const Index window = ReduceLimits{}.window_bytes;
  const Index pieces = std::min(tasks * sum_bytes, window);
  if (along_tree) return pieces;
  const Index travels = ceil_div(tasks, Index{share.ranks}) * share.inbound * sum_bytes;
  // Received sums that wait for their neighbour in the tree.
  const Index levels = std::bit_width(static_cast<std::uint64_t>(share.inbound));
  return std::max(pieces, std::min(travels, std::max(window, sum_bytes)) + levels * sum_bytes);
}

RankShare rank_share(const Workload& workload, int ranks, const PlanLimits& limits) {
  const LaneLayout& layout = workload.lanes;
  RankShare share;
  share.ranks = ranks;
  share.threads = limits.threads;
  share.node_ranks = limits.node_ranks > 0 ? limits.node_ranks : ranks;
  share.length = workload.sequence_length;
  share.lanes = ceil_div(layout.lanes, ranks);
  share.sequences =
      std::min(layout.sequences, share.lanes * ceil_div(layout.sequences, layout.lanes));
  share.lane_tokens = ceil_div(layout.sequences, layout.lanes) * share.length;
  share.tokens = share.sequences * share.length;
  share.pending = most_pending_partials(layout, ranks);
  Index least = layout.lanes, all = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto nodes = std::ssize(maximal_subtrees(layout.lanes_of_rank(rank, ranks)));
    share.kept = std::max<Index>(share.kept, nodes);
    least = std::min<Index>(least, nodes);
    all += nodes;
  }
  share.inbound = all - least;
  share.workers = std::min<Index>(share.threads, share.sequences);
  share.all_tokens = layout.sequences * share.length;
  share.all_lanes = layout.lanes;
  share.all_pending = most_pending_partials(layout, 1);
  share.dispatch = limits.dispatch;
  share.bf16 = limits.bf16;
  share.offload = limits.offload;
  return share;
}

WaveShape wave_shape(const LayerSizes& sizes, const RankShare& share, Index experts) {
  WaveShape shape{experts};
  if (!share.dispatch || !sizes.routed) return shape;
  const Index owners = std::min<Index>(share.ranks, experts);
  const Index each = ceil_div(experts, owners);
  const Index tokens = ceil_div(share.all_tokens * sizes.top_k, sizes.experts);
  shape.limits.experts = ceil_div(kOwnerPercent * each, 100);
  shape.limits.rows = std::min(ceil_div(kOwnerPercent * each * tokens, 100) + kOwnerRows,
                               share.all_tokens * std::min(sizes.top_k, shape.limits.experts));
  const auto total = [&](Index reduced) {
    shape.limits.reduced = reduced;
    return largest(layer_memory(sizes, share, shape)).memory.total();
  };
  const Index peak = total(1);
  Index reduced = 1;
  while (2 * reduced <= experts && total(2 * reduced) <= peak) reduced *= 2;
  shape.limits.reduced = reduced;
  return shape;
}

const MemoryMoment& largest(const std::vector<MemoryMoment>& moments) {
  return *std::max_element(moments.begin(), moments.end(), [](const auto& a, const auto& b) {
    return a.memory.total() < b.memory.total();
  });
}

}  // namespace aq
