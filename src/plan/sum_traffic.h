#pragma once
/// Traffic of Hessian sums, kept by their size, as if every lane had tokens for each.

#include <map>

#include "aq/comm/tree_schedule.h"

namespace aq {

class SumTraffics {
 public:
  SumTraffics(const LaneLayout& layout, int ranks)
      : ranks_(ranks), leaves_(tree_leaves(layout, ranks)) {}
  /// Of the Hessian of linears with so many inputs.
  const SumTraffic& of(Index columns);

 private:
  int ranks_;
  std::vector<Leaf> leaves_;
  std::map<Index, SumTraffic> sums_;
};

}  // namespace aq
