#include "aq/comm/lanes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "support/lane_sums.h"

namespace aq {
namespace {

using test::lane_sum;
using testing::ElementsAre;

TEST(EvenShare, CoversEveryItemOnceAndEvenly) {
  for (Index parts = 1; parts <= 70; ++parts)
    for (Index count = 0; count <= 130; ++count) {
      Index next = 0;
      for (Index part = 0; part < parts; ++part) {
        const Range range = even_share(count, parts, part);
        ASSERT_EQ(range.begin, next);
        ASSERT_GE(range.size(), count / parts);
        ASSERT_LE(range.size(), ceil_div(count, parts));
        next = range.end;
      }
      ASSERT_EQ(next, count) << parts << " parts";
    }
}

TEST(EvenShare, RejectsAPartThatIsNotThere) {
  EXPECT_THROW(even_share(10, 3, 3), Error);
  EXPECT_THROW(even_share(10, 3, -1), Error);
  EXPECT_THROW(even_share(10, 0, 0), Error);
}

TEST(DefaultLaneCount, IsAPowerOfTwoOfLongEnoughLanes) {
  EXPECT_EQ(default_lane_count(1), 1);
  EXPECT_EQ(default_lane_count(2), 2);
  EXPECT_EQ(default_lane_count(3), 2);
  EXPECT_EQ(default_lane_count(63), 32);
  EXPECT_EQ(default_lane_count(64), 64);
  EXPECT_EQ(default_lane_count(512), 512);
  EXPECT_EQ(default_lane_count(512, 4), 128);
  EXPECT_EQ(default_lane_count(512, 5), 64);
  EXPECT_EQ(default_lane_count(100, 100), 16);
  EXPECT_EQ(default_lane_count(7, 100), 4);
}

TEST(LaneLayout, EveryLaneHasOneRankAndEverySequenceOneLane) {
  for (Index lanes = 1; lanes <= 64; lanes *= 2)
    for (int size = 1; size <= 70; ++size) {
      const LaneLayout layout{.sequences = 3 * lanes + 1, .lanes = lanes};
      Index next_lane = 0;
      Index next_sequence = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Range range = layout.lanes_of_rank(rank, size);
        ASSERT_EQ(range.begin, next_lane);
        for (Index lane = range.begin; lane < range.end; ++lane) {
          ASSERT_EQ(layout.sequences_of_lane(lane).begin, next_sequence);
          next_sequence = layout.sequences_of_lane(lane).end;
        }
        next_lane = range.end;
      }
      ASSERT_EQ(next_lane, lanes) << size << " ranks";
      ASSERT_EQ(next_sequence, layout.sequences) << lanes << " lanes";
    }
}

TEST(MaximalSubtrees, OfHandWorkedRanges) {
  EXPECT_TRUE(maximal_subtrees({5, 5}).empty());
  EXPECT_THAT(maximal_subtrees({0, 16}), ElementsAre(TreeNode{4, 0}));
  EXPECT_THAT(maximal_subtrees({3, 8}), ElementsAre(TreeNode{0, 3}, TreeNode{2, 1}));
  EXPECT_THAT(maximal_subtrees({6, 11}),
              ElementsAre(TreeNode{1, 3}, TreeNode{1, 4}, TreeNode{0, 10}));
}

/// Covers [begin, end) exactly, left to right, and no two neighbours are siblings.
void check_subtrees(Index begin, Index end) {
  Index next = begin;
  TreeNode last{-1, 0};
  for (const TreeNode& node : maximal_subtrees({begin, end})) {
    ASSERT_EQ(node.index << node.level, next);
    ASSERT_FALSE(last.level == node.level && last.index % 2 == 0 && last.index + 1 == node.index);
    next = (node.index + 1) << node.level;
    last = node;
  }
  ASSERT_EQ(next, end) << begin;
}

TEST(MaximalSubtrees, CoverEveryRangeOfLanesOnce) {
  for (Index begin = 0; begin <= 64; ++begin)
    for (Index end = begin; end <= 64; ++end) check_subtrees(begin, end);
}

std::size_t partials_of_all_ranks(Index lanes, int size) {
  const LaneLayout layout{.sequences = lanes, .lanes = lanes};
  std::size_t count = 0;
  for (int rank = 0; rank < size; ++rank)
    count += maximal_subtrees(layout.lanes_of_rank(rank, size)).size();
  return count;
}

TEST(MaximalSubtrees, FewPartialsOnAnyRankCount) {
  EXPECT_EQ(partials_of_all_ranks(16, 1), 1u);
  EXPECT_EQ(partials_of_all_ranks(16, 2), 2u);
  EXPECT_EQ(partials_of_all_ranks(16, 3), 7u);
  EXPECT_EQ(partials_of_all_ranks(16, 5), 9u);
  EXPECT_EQ(partials_of_all_ranks(16, 40), 16u);
}

TEST(TreeSum, EqualsARecursiveTreeOnEveryRange) {
  const std::vector<bool> present(64, true);
  for (Index begin = 0; begin < 64; begin += 3)
    for (Index end = begin + 1; end <= 64; ++end) {
      TreeSum tree;
      for (Index lane = begin; lane < end; ++lane) tree.add_lane(lane, lane_sum(lane, 5, 17));
      const auto nodes = maximal_subtrees({begin, end});
      ASSERT_EQ(tree.partials().size(), nodes.size());
      for (std::size_t i = 0; i < nodes.size(); ++i) {
        ASSERT_EQ(tree.partials()[i].node, nodes[i]);
        test::expect_same_bits(tree.partials()[i].sum, test::naive_tree(present, nodes[i], 5, 17));
      }
    }
}

TEST(TreeSum, OrderMattersForTheseSums) {
  WeightedSum in_lane_order;
  for (Index lane = 0; lane < 64; ++lane) in_lane_order.add(lane_sum(lane, 5, 100));
  const auto tree = test::naive_tree(std::vector<bool>(64, true), {6, 0}, 5, 100);
  EXPECT_NE(in_lane_order.values, tree.values) << "the test data would not show a wrong order";
}

TEST(TreeSum, AnEmptyLaneChangesNoBits) {
  WeightedSum negative_zero{{-0.0f, 1.0f}, 0.5, 2};
  TreeSum tree;
  tree.add_lane(0, {});
  tree.add_lane(1, negative_zero);
  tree.add_lane(2, {});
  tree.add_lane(3, {});
  ASSERT_EQ(tree.partials().size(), 1u);
  test::expect_same_bits(tree.partials()[0].sum, negative_zero);
}

TEST(TreeSum, OnlyEmptyLanesGiveAnEmptySum) {
  TreeSum tree;
  tree.add_lane(0, {});
  tree.add_lane(1, {{0, 0, 0}, 0, 0});  // zeros, but no token
  EXPECT_TRUE(tree.partials()[0].sum.empty());
}

TEST(TreeSum, TakesSubtreesAsItTakesLanes) {
  TreeSum whole;
  for (Index lane = 0; lane < 16; ++lane) whole.add_lane(lane, lane_sum(lane, 2, 9));
  TreeSum joined;
  for (int rank = 0; rank < 3; ++rank) {
    TreeSum part;
    const Range lanes = even_share(16, 3, rank);
    for (Index lane = lanes.begin; lane < lanes.end; ++lane)
      part.add_lane(lane, lane_sum(lane, 2, 9));
    for (auto& partial : part.take()) joined.add(std::move(partial));
  }
  ASSERT_EQ(joined.partials().size(), 1u);
  test::expect_same_bits(joined.partials()[0].sum, whole.partials()[0].sum);
}

TEST(TreeSum, RejectsALaneOutOfOrder) {
  TreeSum tree;
  tree.add_lane(2, lane_sum(2, 0, 3));
  EXPECT_THROW(tree.add_lane(2, lane_sum(2, 0, 3)), Error);
  EXPECT_THROW(tree.add_lane(4, lane_sum(4, 0, 3)), Error);
}

}  // namespace
}  // namespace aq
