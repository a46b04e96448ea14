#include "aq/comm/tree_schedule.h"

#include <algorithm>
#include <numeric>

namespace aq {
namespace {

constexpr Index kFloat = sizeof(float);

/// A node of the tree and its values; no pieces when it is empty.
struct Node {
  TreeNode node;
  std::vector<Piece> pieces;
};

/// Forms the sum of two siblings, interval by interval of what both cut. Pieces begin and end where
/// halves of halves of all values do, so that there are never more of them than lanes.
class Merge {
 public:
  Merge(int round, Index least, std::vector<Addition>& additions)
      : round_(round), least_(least), additions_(additions) {}

  std::vector<Piece> run(const std::vector<Piece>& left, const std::vector<Piece>& right) {
    if (left.empty()) return right;
    if (right.empty()) return left;
    std::size_t l = 0, r = 0;
    for (Index begin = 0; l < left.size();) {
      const Index end = std::min(left[l].values.end, right[r].values.end);
      interval({begin, end}, left[l].at, right[r].at);
      if (left[l].values.end == end) ++l;
      if (right[r].values.end == end) ++r;
      begin = end;
    }
    return std::move(sum_);
  }

 private:
  void interval(Range values, Place left, Place right) {
    if (left.rank == right.rank || values.size() < 2 * least_) return add(values, right, left);
    const Index middle = values.begin + values.size() / 2;
    add({values.begin, middle}, right, left);
    add({middle, values.end}, left, right);
  }
  void add(Range values, Place from, Place to) {
    additions_.push_back({round_, values, from, to});
    sum_.push_back({values, to});
  }

  int round_;
  Index least_;
  std::vector<Addition>& additions_;
  std::vector<Piece> sum_;
};

Index largest(const std::vector<Index>& values) {
  return *std::max_element(values.begin(), values.end());
}

Index total(const std::vector<Index>& values) {
  return std::accumulate(values.begin(), values.end(), Index{0});
}

void add_sums(const WayTraffic& each, std::span<const int> owners, ReduceTraffic& traffic) {
  const Index count = std::ssize(owners);
  for (std::size_t r = 0; r < each.last.size(); ++r) {
    traffic.sent[r] += count * (each.rounds.sent[r] + each.last[r]);
    traffic.received[r] += count * each.rounds.received[r];
  }
  const Index all = total(each.last);
  for (const int owner : owners) {
    traffic.sent[owner] -= each.last[owner];
    traffic.received[owner] += all - each.last[owner];
  }
}

/// The most that any rank moves of a sum, at worst of all owners.
Index at_worst(const WayTraffic& way) {
  Index most = largest(way.rounds.received) + total(way.last);
  for (std::size_t r = 0; r < way.last.size(); ++r)
    most = std::max(most, way.rounds.sent[r] + way.last[r]);
  return most;
}

}  // namespace

std::vector<Leaf> tree_leaves(const LaneLayout& layout, int ranks) {
  std::vector<Leaf> leaves;
  for (int rank = 0; rank < ranks; ++rank) {
    int slot = 0;
    for (const TreeNode& node : maximal_subtrees(layout.lanes_of_rank(rank, ranks)))
      leaves.push_back({rank, slot++, node});
  }
  return leaves;
}

TreeSchedule tree_schedule(std::span<const Leaf> leaves, const std::vector<bool>& present,
                           Index values, Index least) {
  AQ_CHECK(present.size() == leaves.size() && least >= 1, present.size(), " of ", leaves.size());
  TreeSchedule schedule;
  std::vector<Node> nodes;  // left to right, no two of them siblings
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    Node node{leaves[i].node, {}};
    if (present[i]) node.pieces = {{{0, values}, {leaves[i].rank, leaves[i].slot}}};
    for (; !nodes.empty() && are_siblings(nodes.back().node, node.node); nodes.pop_back()) {
      const TreeNode parent{node.node.level + 1, node.node.index / 2};
      Merge merge(parent.level, least, schedule.additions);
      node = {parent, merge.run(nodes.back().pieces, node.pieces)};
    }
    nodes.push_back(std::move(node));
  }
  AQ_CHECK(nodes.size() == 1, nodes.size(), " roots");
  schedule.root = std::move(nodes.front().pieces);
  std::stable_sort(schedule.additions.begin(), schedule.additions.end(),
                   [](const Addition& a, const Addition& b) { return a.round < b.round; });
  return schedule;
}

Index ReduceTraffic::most() const {
  return std::max(largest(sent), largest(received));
}

SumTraffic traffic_of_sum(std::span<const Leaf> leaves, const std::vector<bool>& present, int ranks,
                          Index values, Index least_bytes) {
  SumTraffic traffic{WayTraffic(ranks), WayTraffic(ranks)};
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (present[i]) traffic.direct.last[leaves[i].rank] += values * kFloat;
  const TreeSchedule schedule =
      tree_schedule(leaves, present, values, std::max<Index>(1, least_bytes / kFloat));
  for (const Addition& addition : schedule.additions) {
    if (addition.from.rank == addition.to.rank) continue;
    traffic.tree.rounds.sent[addition.from.rank] += addition.values.size() * kFloat;
    traffic.tree.rounds.received[addition.to.rank] += addition.values.size() * kFloat;
  }
  for (const Piece& piece : schedule.root)
    traffic.tree.last[piece.at.rank] += piece.values.size() * kFloat;
  return traffic;
}

void ReduceWays::add(const SumTraffic& each, std::span<const int> owners) {
  add_sums(each.direct, owners, direct_);
  add_sums(each.tree, owners, tree_);
}

bool always_along_tree(std::span<const SumTraffic> sums) {
  Index tree = 0, direct = 0;
  for (const SumTraffic& sum : sums) {
    tree += at_worst(sum.tree);
    // What the owner at least receives.
    direct = std::max(direct, total(sum.direct.last) - largest(sum.direct.last));
  }
  return tree < direct;
}

}  // namespace aq
