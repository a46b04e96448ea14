#include "aq/comm/tree_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <numeric>
#include <random>

#include "support/lane_sums.h"

namespace aq {
namespace {

using Values = decltype(WeightedSum::values);
using testing::ElementsAre;

constexpr Index kMany = 512 << 18;  // values of a sum of 0.5 GiB

TreeNode root_of(const LaneLayout& layout) {
  return {std::countr_zero(static_cast<std::uint64_t>(layout.lanes)), 0};
}

/// Which leaves have a lane with tokens.
std::vector<bool> present_leaves(const std::vector<Leaf>& leaves, const std::vector<bool>& lanes) {
  std::vector<bool> present;
  for (const Leaf& leaf : leaves) {
    const Index begin = leaf.node.index << leaf.node.level;
    const auto first = lanes.begin() + begin;
    present.push_back(std::find(first, first + (Index{1} << leaf.node.level), true) !=
                      first + (Index{1} << leaf.node.level));
  }
  return present;
}

/// What all ranks have while a schedule is carried out.
class Ranks {
 public:
  Ranks(const std::vector<Leaf>& leaves, const std::vector<bool>& lanes, Index values) {
    for (const Leaf& leaf : leaves)
      arrays_[{leaf.rank, leaf.slot}] = test::naive_tree(lanes, leaf.node, 3, values).values;
  }

  /// Every addition of a round reads what was there before the round: so no rank waits within one
  /// for what another has added.
  void run(const std::vector<Addition>& additions) {
    for (std::size_t begin = 0, end = 0; begin < additions.size(); begin = end) {
      const auto before = arrays_;
      for (; end < additions.size() && additions[end].round == additions[begin].round; ++end) {
        const auto& [round, values, from, to] = additions[end];
        for (Index i = values.begin; i < values.end; ++i)
          at(to)[i] = before.at(key(to))[i] + before.at(key(from))[i];
      }
    }
  }

  Values gather(const std::vector<Piece>& pieces) {
    Values all;
    for (const auto& [values, place] : pieces) {
      EXPECT_EQ(values.begin, std::ssize(all));
      all.insert(all.end(), at(place).begin() + values.begin, at(place).begin() + values.end);
    }
    return all;
  }

 private:
  static std::pair<int, int> key(Place place) { return {place.rank, place.slot}; }
  Values& at(Place place) { return arrays_.at(key(place)); }
  std::map<std::pair<int, int>, Values> arrays_;
};

/// The values of the schedule's whole sum are those of the tree that is added at one place.
void check_bits(const LaneLayout& layout, int ranks, const std::vector<bool>& lanes, Index least) {
  constexpr Index kValues = 37;
  const auto leaves = tree_leaves(layout, ranks);
  const auto schedule = tree_schedule(leaves, present_leaves(leaves, lanes), kValues, least);
  Ranks all(leaves, lanes, kValues);
  all.run(schedule.additions);
  const WeightedSum expected = test::naive_tree(lanes, root_of(layout), 3, kValues);
  test::expect_same_bits({all.gather(schedule.root), expected.weight_sum, expected.tokens},
                         expected);
}

TEST(TreeSchedule, SameBitsOnUpTo64RanksAndLanes) {
  std::mt19937 random(1);
  for (Index lanes = 1; lanes <= 64; lanes *= 2) {
    const LaneLayout layout{.sequences = lanes, .lanes = lanes};
    for (int ranks = 1; ranks <= 64; ++ranks) {
      SCOPED_TRACE(str(ranks, " ranks, ", lanes, " lanes"));
      std::vector<bool> some;
      std::bernoulli_distribution filled(ranks % 2 == 0 ? 0.7 : 0.15);
      for (Index lane = 0; lane < lanes; ++lane) some.push_back(filled(random));
      check_bits(layout, ranks, std::vector<bool>(lanes, true), 1 + ranks % 3);
      check_bits(layout, ranks, some, 1);
    }
  }
}

TEST(TreeSchedule, ByHand) {
  // Three ranks: lanes 0 and 1, 2, 3. The sum of rank 2 has no tokens.
  const auto leaves = tree_leaves({.sequences = 4, .lanes = 4}, 3);
  const auto schedule = tree_schedule(leaves, {true, true, false}, 8, 2);
  ASSERT_EQ(schedule.additions.size(), 2u);
  const Addition &left = schedule.additions[0], &right = schedule.additions[1];
  EXPECT_EQ(left.round, 2);
  EXPECT_EQ(left.values, (Range{0, 4}));
  EXPECT_EQ(left.to, (Place{0, 0}));
  EXPECT_EQ(right.values, (Range{4, 8}));
  EXPECT_EQ(right.to, (Place{1, 0}));
  const SumTraffic traffic = traffic_of_sum(leaves, {true, true, false}, 3, 8, 8);
  EXPECT_THAT(traffic.tree.rounds.sent, ElementsAre(16, 16, 0));
  EXPECT_THAT(traffic.tree.last, ElementsAre(16, 16, 0));
  EXPECT_THAT(traffic.direct.last, ElementsAre(32, 32, 0));
  ReduceWays ways(3);
  ways.add(traffic, std::vector{2});
  EXPECT_TRUE(ways.along_tree()) << "rank 2 receives one sum, not two";
  EXPECT_THAT(ways.traffic().sent, ElementsAre(32, 32, 0));
  EXPECT_THAT(ways.traffic().received, ElementsAre(16, 16, 32));
}

TEST(TreeSchedule, NothingIsHalvedBelowTheLeastPiece) {
  const LaneLayout layout{.sequences = 8, .lanes = 8};
  const auto leaves = tree_leaves(layout, 8);
  for (const Index least : {7, 8, 13, 100}) {
    const auto schedule = tree_schedule(leaves, std::vector<bool>(8, true), 100, least);
    for (const Addition& addition : schedule.additions)
      EXPECT_GE(addition.values.size(), std::min<Index>(100, least)) << addition.round;
  }
  const auto one = tree_schedule(leaves, std::vector<bool>(8, true), 100, 51);
  EXPECT_EQ(one.root.size(), 1u);
  EXPECT_EQ(one.additions.size(), 7u) << "each sum is added once";
}

TEST(TreeSchedule, NoTokensAnywhere) {
  const auto leaves = tree_leaves({.sequences = 8, .lanes = 8}, 3);
  const auto schedule = tree_schedule(leaves, std::vector<bool>(leaves.size(), false), 10, 1);
  EXPECT_TRUE(schedule.additions.empty());
  EXPECT_TRUE(schedule.root.empty());
}

Index most_of(const std::vector<Index>& values) {
  return *std::max_element(values.begin(), values.end());
}

/// The root's pieces cover all values once, and rounds are the levels of the tree in order.
void check_form(const TreeSchedule& schedule, const LaneLayout& layout, int ranks, Index values) {
  Index next = 0;
  for (const Piece& piece : schedule.root) {
    ASSERT_EQ(piece.values.begin, next);
    next = piece.values.end;
  }
  ASSERT_EQ(next, values);
  EXPECT_LE(std::ssize(schedule.root), layout.lanes);
  int round = 1;
  for (const Addition& addition : schedule.additions) {
    ASSERT_GE(addition.round, round);
    round = addition.round;
    for (const Place& place : {addition.from, addition.to})
      ASSERT_TRUE(place.rank >= 0 && place.rank < ranks && place.slot >= 0) << place.rank;
  }
  EXPECT_TRUE(schedule.additions.empty() || round <= root_of(layout).level) << round;
}

/// A rank adds at most one interval of its values in a round for each partial sum that it had, and
/// reads it before anybody adds to it.
void check_rounds(const TreeSchedule& schedule) {
  std::map<std::tuple<int, int, int>, std::vector<Range>> touched;  // (round, rank, slot)
  for (const Addition& addition : schedule.additions)
    for (const Place& place : {addition.from, addition.to})
      touched[{addition.round, place.rank, place.slot}].push_back(addition.values);
  for (auto& [at, ranges] : touched) {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < ranges.size(); ++i)
      ASSERT_LE(ranges[i - 1].end, ranges[i].begin) << "round " << std::get<0>(at);
  }
}

TEST(TreeSchedule, On4096Ranks) {
  for (const Index lanes : {1, 64, 256, 1024, 4096}) {
    SCOPED_TRACE(lanes);
    const LaneLayout layout{.sequences = lanes, .lanes = lanes};
    const auto leaves = tree_leaves(layout, 4096);
    const std::vector<bool> present(leaves.size(), true);
    const Index least = ReduceLimits{}.least_piece_bytes / 4;
    const auto schedule = tree_schedule(leaves, present, kMany, least);
    check_form(schedule, layout, 4096, kMany);
    check_rounds(schedule);
    const SumTraffic traffic = traffic_of_sum(leaves, present, 4096, kMany);
    for (const int owner : {0, 63, 4095}) {
      ReduceWays ways(4096);
      ways.add(traffic, std::vector{owner});
      EXPECT_EQ(ways.along_tree(), lanes > 2);
      const ReduceTraffic& bytes = ways.traffic();
      EXPECT_LE(most_of(bytes.sent), kMany * 4);
      EXPECT_LE(most_of(bytes.received), 2 * kMany * 4);
      EXPECT_EQ(std::accumulate(bytes.sent.begin(), bytes.sent.end(), Index{0}),
                std::accumulate(bytes.received.begin(), bytes.received.end(), Index{0}));
    }
  }
}

/// With several lanes a rank, as many sums as it has maximal subtrees leave it.
TEST(TreeSchedule, WithUnalignedLanes) {
  for (const int ranks : {3, 7, 48, 96, 1000, 3000, 4095}) {
    SCOPED_TRACE(ranks);
    const LaneLayout layout{.sequences = 4096, .lanes = 4096};
    const auto leaves = tree_leaves(layout, ranks);
    const std::vector<bool> present(leaves.size(), true);
    const auto schedule = tree_schedule(leaves, present, kMany, 1 << 14);
    check_form(schedule, layout, ranks, kMany);
    check_rounds(schedule);
    const SumTraffic traffic = traffic_of_sum(leaves, present, ranks, kMany);
    for (int rank = 0; rank < ranks; ++rank) {
      const Index own = traffic.direct.last[rank];
      EXPECT_LE(traffic.tree.rounds.sent[rank] + traffic.tree.last[rank], own);
      EXPECT_LE(traffic.tree.rounds.received[rank], own);
    }
  }
}

TEST(ReduceWays, DirectWhereOwnersShareTheLoad) {
  const auto leaves = tree_leaves({.sequences = 64, .lanes = 64}, 64);
  const SumTraffic traffic = traffic_of_sum(leaves, std::vector<bool>(64, true), 64, kMany);
  std::vector<int> owners;
  std::vector<bool> along;
  for (int owner = 0; owner < 64; ++owner) {
    owners.push_back(owner);
    ReduceWays ways(64);
    ways.add(traffic, owners);
    along.push_back(ways.along_tree());
  }
  EXPECT_TRUE(along.front());
  EXPECT_FALSE(along.back());
  EXPECT_TRUE(std::is_sorted(along.rbegin(), along.rend())) << "one change, as owners come";
}

TEST(ReduceWays, AlwaysAlongTheTreeMeansWithEveryOwner) {
  for (Index lanes = 1; lanes <= 64; lanes *= 2)
    for (int ranks = 1; ranks <= 20; ++ranks) {
      const auto leaves = tree_leaves({.sequences = lanes, .lanes = lanes}, ranks);
      const SumTraffic traffic =
          traffic_of_sum(leaves, std::vector<bool>(leaves.size(), true), ranks, kMany);
      bool all = true;
      for (int owner = 0; owner < ranks; ++owner) {
        ReduceWays ways(ranks);
        ways.add(traffic, std::vector{owner});
        all = all && ways.along_tree();
      }
      const bool always = always_along_tree(std::vector{traffic});
      EXPECT_TRUE(all || !always) << ranks << " ranks, " << lanes << " lanes";
      EXPECT_TRUE(always || ranks < 4 || lanes < 4) << ranks << " ranks, " << lanes;
    }
}

}  // namespace
}  // namespace aq
