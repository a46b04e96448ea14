#pragma once
/// How a sum comes to its owner from the ranks that have parts of it: every part to the owner
/// (direct), or along the tree of lanes, whose nodes are added in pieces by the ranks below them.
/// Pure values; reduce_to_owners does what they say, and a plan counts what they move.

#include <span>
#include <vector>

#include "aq/comm/lanes.h"

namespace aq {

/// A partial sum of a rank: a maximal subtree of its lanes.
struct Leaf {
  int rank = 0;
  int slot = 0;  ///< its number among those of the rank
  TreeNode node;
};
/// Those of all ranks, left to right.
std::vector<Leaf> tree_leaves(const LaneLayout& layout, int ranks);

/// The array of values of one partial sum, in which later sums are formed too.
struct Place {
  int rank = 0;
  int slot = 0;
  bool operator==(const Place&) const = default;
};

/// to[values] += from[values], after all additions of earlier rounds; a transfer where the ranks
/// differ. Those of one round touch no value twice.
struct Addition {
  int round = 0;  ///< the level of the node that is formed, from 1
  Range values;
  Place from, to;
};

/// Values of a node, and who has them.
struct Piece {
  Range values;
  Place at;
};

struct TreeSchedule {
  std::vector<Addition> additions;  ///< by round
  std::vector<Piece> root;  ///< the whole sum, in order of values; empty when no leaf is present
};

/// Additions of one sum of `values` values whose leaves are `present`, in tree order. Where two
/// ranks have the same values of two siblings, each adds one half, down to `least` values. A node
/// with one empty child stays where the other one is.
/// @pre least >= 1; the leaves are those of tree_leaves
TreeSchedule tree_schedule(std::span<const Leaf> leaves, const std::vector<bool>& present,
                           Index values, Index least);

/// Bytes of each rank.
struct ReduceTraffic {
  explicit ReduceTraffic(int ranks) : sent(ranks), received(ranks) {}
  std::vector<Index> sent, received;
  /// Of the busiest rank, sent or received.
  Index most() const;
};

/// What one sum moves on one way, whoever owns it: in the rounds, and then what each rank has and
/// sends to the owner.
struct WayTraffic {
  explicit WayTraffic(int ranks) : rounds(ranks), last(ranks) {}
  ReduceTraffic rounds;
  std::vector<Index> last;
};
struct SumTraffic {
  WayTraffic direct, tree;
};
SumTraffic traffic_of_sum(std::span<const Leaf> leaves, const std::vector<bool>& present, int ranks,
                          Index values, Index least_bytes = ReduceLimits{}.least_piece_bytes);

/// Traffic of sums that are reduced together, both ways.
class ReduceWays {
 public:
  explicit ReduceWays(int ranks) : direct_(ranks), tree_(ranks) {}
  /// Adds one sum that moves like `each` for every owner.
  void add(const SumTraffic& each, std::span<const int> owners);
  /// The way that is taken: the busiest rank moves less on it.
  bool along_tree() const { return tree_.most() < direct_.most(); }
  const ReduceTraffic& traffic() const { return along_tree() ? tree_ : direct_; }

 private:
  ReduceTraffic direct_, tree_;
};

/// True when such sums go along the tree whoever owns them.
bool always_along_tree(std::span<const SumTraffic> sums);

}  // namespace aq
