#include <gtest/gtest.h>

#include <random>

#include "aq/comm/counting.h"
#include "aq/comm/tree_schedule.h"
#include "aq/core/error.h"
#include "support/lane_sums.h"
#include "support/mpi_world.h"

namespace aq {
namespace {

using test::world;

/// Every value may be a piece of its own, so that short sums travel in pieces too.
constexpr ReduceLimits kSmallPieces{.least_piece_bytes = 4};

/// One matrix of a test: its owner, its length, and which lanes have tokens for it.
struct Case {
  int owner = 0;
  Index values = 0;
  std::vector<bool> present;
};

/// Random cases, the same on every rank.
std::vector<Case> random_cases(Index count, Index lanes, Index longest, double filled, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::bernoulli_distribution has_tokens(filled);
  std::vector<Case> cases;
  for (Index i = 0; i < count; ++i) {
    Case& entry = cases.emplace_back();
    entry.owner = static_cast<int>(random() % static_cast<unsigned>(world().size()));
    entry.values = 1 + static_cast<Index>(random()) % longest;
    for (Index lane = 0; lane < lanes; ++lane) entry.present.push_back(has_tokens(random));
  }
  return cases;
}

std::vector<Reduction> own_partials(const LaneLayout& layout, const std::vector<Case>& cases) {
  const Range lanes = layout.lanes_of_rank(world().rank(), world().size());
  std::vector<Reduction> reductions;
  for (std::size_t m = 0; m < cases.size(); ++m) {
    TreeSum tree;
    for (Index lane = lanes.begin; lane < lanes.end; ++lane) {
      const bool present = cases[m].present[lane];
      tree.add_lane(lane, present ? test::lane_sum(lane, static_cast<Index>(m), cases[m].values)
                                  : WeightedSum{});
    }
    reductions.push_back(
        {.owner = cases[m].owner, .values = cases[m].values, .partials = tree.take()});
  }
  return reductions;
}

/// The owner has, bit for bit, what one process computes; nobody else has anything.
void check_results(const LaneLayout& layout, const std::vector<Case>& cases,
                   const std::vector<Reduction>& reductions) {
  int level = 0;
  while ((Index{1} << level) < layout.lanes) ++level;
  for (std::size_t m = 0; m < cases.size(); ++m) {
    EXPECT_TRUE(reductions[m].partials.empty());
    const auto expected =
        cases[m].owner == world().rank()
            ? test::naive_tree(cases[m].present, {level, 0}, static_cast<Index>(m), cases[m].values)
            : WeightedSum{};
    SCOPED_TRACE(str("matrix ", m, ", lanes ", layout.lanes));
    test::expect_same_bits(reductions[m].result, expected);
  }
}

void reduce_and_check(Index lanes, const std::vector<Case>& cases,
                      const ReduceLimits& limits = {}) {
  const LaneLayout layout{.sequences = 2 * lanes, .lanes = lanes};
  auto reductions = own_partials(layout, cases);
  reduce_to_owners(*make_host_transport(world()), layout, reductions, limits);
  check_results(layout, cases, reductions);
}

TEST(ReduceToOwners, ManyMatricesOnEveryLaneCount) {
  for (Index lanes = 1; lanes <= 64; lanes *= 2)
    for (const ReduceLimits& limits : {ReduceLimits{}, kSmallPieces})
      reduce_and_check(lanes, random_cases(20, lanes, 300, 1.0, static_cast<int>(lanes)), limits);
}

TEST(ReduceToOwners, WithEmptyLanes) {
  for (const double filled : {0.0, 0.05, 0.3, 0.7})
    for (const Index lanes : {1, 2, 16, 64})
      for (const ReduceLimits& limits : {ReduceLimits{}, kSmallPieces})
        reduce_and_check(lanes, random_cases(20, lanes, 100, filled, 77), limits);
}

TEST(ReduceToOwners, InSmallBatchesThatRanksCutDifferently) {
  for (const Index window : {1, 400, 1000, 5000})
    reduce_and_check(16, random_cases(60, 16, 300, 0.6, 5), {.window_bytes = window});
}

TEST(ReduceToOwners, EveryOwnerAndOneForAll) {
  for (int owner = 0; owner < world().size(); ++owner)
    for (const Index least : {4, 40, 400}) {
      auto cases = random_cases(10, 8, 200, 0.9, owner);
      for (Case& entry : cases) entry.owner = owner;
      reduce_and_check(8, cases, {.window_bytes = 700, .least_piece_bytes = least});
    }
}

TEST(ReduceToOwners, InPartsOfAPieceOfASum) {
  for (const Index lanes : {4, 32}) {
    auto cases = random_cases(3, lanes, 50, 0.8, 9);
    for (Case& entry : cases) entry.owner = 0;
    reduce_and_check(lanes, cases, {.window_bytes = 8, .least_piece_bytes = 4});
  }
}

/// Counted bytes are those of ReduceWays, and 16 for each partial sum that a rank could have.
bool check_traffic(Index lanes, const std::vector<Case>& cases) {
  const LaneLayout layout{.sequences = lanes, .lanes = lanes};
  const auto leaves = tree_leaves(layout, world().size());
  ReduceWays ways(world().size());
  for (const Case& entry : cases) {
    std::vector<bool> present;
    for (const Leaf& leaf : leaves) {
      const auto first = entry.present.begin() + (leaf.node.index << leaf.node.level);
      present.push_back(std::count(first, first + (Index{1} << leaf.node.level), true) > 0);
    }
    ways.add(traffic_of_sum(leaves, present, world().size(), entry.values,
                            kSmallPieces.least_piece_bytes),
             std::span(&entry.owner, 1));
  }
  CountingCommunicator counting(world());
  auto reductions = own_partials(layout, cases);
  reduce_to_owners(*make_host_transport(counting), layout, reductions, kSmallPieces);
  check_results(layout, cases, reductions);
  const auto own = std::count_if(leaves.begin(), leaves.end(),
                                 [](const Leaf& leaf) { return leaf.rank == world().rank(); });
  const Index reduced = std::ssize(cases);
  const Index headers = 8 + 16 * reduced * own;
  const Index of_others =
      8 * (world().size() - 1) + 16 * reduced * (std::ssize(leaves) - static_cast<Index>(own));
  EXPECT_EQ(counting.bytes().sent, ways.traffic().sent[world().rank()] + headers);
  EXPECT_EQ(counting.bytes().received, ways.traffic().received[world().rank()] + of_others);
  return ways.along_tree();
}

TEST(ReduceToOwners, MovesWhatThePlanCounts) {
  bool tree = false, direct = false;
  for (const Index lanes : {1, 2, 8, 64})
    for (const double filled : {1.0, 0.3})
      for (const bool one_owner : {true, false}) {
        auto cases = random_cases(12, lanes, 200, filled, 6);
        for (std::size_t i = 0; i < cases.size(); ++i)
          cases[i].owner = one_owner ? world().size() - 1 : static_cast<int>(i) % world().size();
        (check_traffic(lanes, cases) ? tree : direct) = true;
      }
  EXPECT_TRUE(direct);
  EXPECT_EQ(tree, world().size() > 2);
}

TEST(ReduceToOwners, RanksWithoutLanesOwnMatricesToo) {
  auto cases = random_cases(6, 2, 100, 1.0, 3);
  for (Case& entry : cases) entry.owner = world().size() - 1;
  reduce_and_check(2, cases);
}

TEST(ReduceToOwners, NothingToReduce) {
  reduce_and_check(4, {});
  reduce_and_check(4, random_cases(3, 4, 10, 0.0, 1));
}

TEST(ReduceToOwners, NoPartialsAtAllMeansNoTokens) {
  const LaneLayout layout{.sequences = 8, .lanes = 8};
  std::vector<Case> cases{{.owner = 0, .values = 30, .present = {}}};
  for (Index lane = 0; lane < 8; ++lane)
    cases[0].present.push_back(!layout.lanes_of_rank(0, world().size()).size() ||
                               lane >= layout.lanes_of_rank(0, world().size()).end);
  auto reductions = own_partials(layout, cases);
  if (world().is_first()) reductions[0].partials.clear();
  reduce_to_owners(*make_host_transport(world()), layout, reductions);
  check_results(layout, cases, reductions);
}

TEST(ReduceToOwners, SumsLongerThanAPieceAndThanTheWindow) {
  std::vector<Case> cases;
  for (int i = 0; i < 3; ++i)
    cases.push_back({.owner = i % world().size(),
                     .values = kPieceBytes / 4 + 1 + i,
                     .present = {true, true, i != 1, true}});
  reduce_and_check(4, cases, {.window_bytes = kPieceBytes});
}

TEST(ReduceToOwners, DifferentListsAreReportedByEveryRank) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const LaneLayout layout{.sequences = 8, .lanes = 8};
  std::vector<Case> cases = random_cases(2, 8, 10, 1.0, 4);
  if (world().is_last()) cases[1].values += 1;
  auto reductions = own_partials(layout, cases);
  EXPECT_THROW(reduce_to_owners(*make_host_transport(world()), layout, reductions), Error);
}

}  // namespace
}  // namespace aq
