#include "aq/comm/lanes.h"

#include <algorithm>

#include "aq/core/error.h"

namespace aq {
namespace {

/// left + right. An empty side leaves the other side's bits untouched.
WeightedSum add_pair(WeightedSum left, WeightedSum right) {
  if (left.empty()) return right;
  left.add(right);
  return left;
}

}  // namespace

Range even_share(Index count, Index parts, Index part) {
  AQ_CHECK(count >= 0 && part >= 0 && part < parts, count, " ", part, " of ", parts);
  const Index base = count / parts;
  const Index longer = count % parts;  // the first `longer` parts hold one more
  const Index begin = part * base + std::min(part, longer);
  return {begin, begin + base + (part < longer ? 1 : 0)};
}

Index default_lane_count(Index sequences, Index least) {
  constexpr Index kFew = 16;  // so that a few ranks have work whatever it is
  const Index most = std::min(sequences, std::max(kFew, sequences / std::max<Index>(least, 1)));
  Index lanes = 1;
  while (lanes * 2 <= most) lanes *= 2;
  return lanes;
}

bool are_siblings(const TreeNode& left, const TreeNode& right) {
  return left.level == right.level && left.index % 2 == 0 && right.index == left.index + 1;
}

std::vector<TreeNode> maximal_subtrees(Range lanes) {
  std::vector<TreeNode> nodes;
  for (Index begin = lanes.begin; begin < lanes.end;) {
    int level = 0;
    while (begin % (Index{2} << level) == 0 && begin + (Index{2} << level) <= lanes.end) ++level;
    nodes.push_back({level, begin >> level});
    begin += Index{1} << level;
  }
  return nodes;
}

void TreeSum::add_lane(Index lane, WeightedSum sum) {
  add({{0, lane}, std::move(sum)});
}

void TreeSum::add(Partial partial) {
  if (!partials_.empty()) {
    const TreeNode& last = partials_.back().node;
    AQ_CHECK(partial.node.index << partial.node.level == (last.index + 1) << last.level, "node ",
             partial.node.index, " of level ", partial.node.level, " after node ", last.index,
             " of level ", last.level);
  }
  while (!partials_.empty() && are_siblings(partials_.back().node, partial.node)) {
    Partial left = std::move(partials_.back());
    partials_.pop_back();
    partial = {{left.node.level + 1, left.node.index / 2},
               add_pair(std::move(left.sum), std::move(partial.sum))};
  }
  partials_.push_back(std::move(partial));
}

}  // namespace aq
