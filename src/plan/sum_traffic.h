#pragma once
/// Traffic of sums, kept by their size, as if every lane had tokens for each.

#include <map>

#include "aq/comm/tree_schedule.h"

namespace aq {

class SumTraffics {
 public:
  SumTraffics(const LaneLayout& layout, int ranks)
      : ranks_(ranks), leaves_(tree_leaves(layout, ranks)) {}
  /// Of so many values.
  const SumTraffic& of(Index values);

 private:
  int ranks_;
  std::vector<Leaf> leaves_;
  std::map<Index, SumTraffic> sums_;
};

}  // namespace aq
