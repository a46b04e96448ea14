#pragma once
/// Lanes: the fixed units into which calibration sequences are dealt, whatever the rank count, and
/// the fixed binary tree in which their sums are added. Bits of a sum depend on the lanes alone.

#include <string>
#include <utility>
#include <vector>

#include "aq/comm/transport.h"
#include "aq/core/index.h"
#include "aq/core/weighted_sum.h"

namespace aq {

/// Contiguous piece `part` of `parts` of [0, count); sizes differ by at most one.
Range even_share(Index count, Index parts, Index part);

/// The most lanes, a power of two, of at least `least` sequences each; of fewer where there would
/// be less than 16 lanes. At least 1, at most `sequences`.
Index default_lane_count(Index sequences, Index least = 1);

/// Who holds which sequences. A pure value: rank and size are numbers.
struct LaneLayout {
  Index sequences = 0;
  Index lanes = 1;  ///< a power of two, at most `sequences`

  Range sequences_of_lane(Index lane) const { return even_share(sequences, lanes, lane); }
  Range lanes_of_rank(int rank, int size) const { return even_share(lanes, size, rank); }
  bool operator==(const LaneLayout&) const = default;
};

/// A node of the tree: the sum of lanes [index << level, (index + 1) << level).
struct TreeNode {
  int level = 0;
  Index index = 0;
  bool operator==(const TreeNode&) const = default;
};

/// Children of one node, in this order.
bool are_siblings(const TreeNode& left, const TreeNode& right);

/// The maximal aligned subtrees that make up `lanes`, left to right.
std::vector<TreeNode> maximal_subtrees(Range lanes);

/// Adds lane sums in tree order while they come, keeping one sum a maximal subtree.
/// @pre lanes are added in ascending order, each once (an empty sum counts)
class TreeSum {
 public:
  /// The sum of one node's lanes.
  struct Partial {
    TreeNode node;
    WeightedSum sum;
  };
  void add_lane(Index lane, WeightedSum sum);
  /// Adds the sum of a whole subtree, whose first lane follows the last lane added.
  void add(Partial partial);
  /// The subtrees added so far, left to right; for a rank's whole range the maximal aligned ones.
  const std::vector<Partial>& partials() const { return partials_; }
  std::vector<Partial> take() { return std::move(partials_); }

 private:
  std::vector<Partial> partials_;
};

/// One sum to be collected at one rank. All ranks list the same reductions in the same order.
struct Reduction {
  int owner = 0;
  Index values = 0;                          ///< length of WeightedSum::values when not empty
  std::vector<TreeSum::Partial> partials{};  ///< this rank's own subtrees, or nothing; consumed
  WeightedSum result{};                      ///< filled on the owner; empty when no rank had tokens
  std::string name{};                        ///< for messages: a matrix that needs the sum
};

struct ReduceLimits {
  /// Bytes that a rank has in flight: at most this much being received and this much being sent, or
  /// in the direct way one sum where that is larger.
  Index window_bytes = Index{64} << 20;
  /// A piece of a sum is not dealt out to two ranks when its halves would be smaller. The same on
  /// all ranks.
  Index least_piece_bytes = Index{64} << 10;
};

/// Brings every reduction's sum to its owner, added in tree order: all partial sums to the owner,
/// or along the tree, whichever loads the busiest rank less (tree_schedule.h). Token counts are
/// exchanged first; empty partials are not sent. Transfers are point to point in pieces of at most
/// 4 MB. Collective. The result is the same bits for any number of ranks.
/// @pre partials are those of the maximal subtrees of this rank's lanes (TreeSum), or none at all
/// when no token came; all ranks list the same owners and lengths
void reduce_to_owners(Transport& transport, const LaneLayout& layout,
                      std::vector<Reduction>& reductions, const ReduceLimits& limits = {});

}  // namespace aq
