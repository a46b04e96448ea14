#include <gtest/gtest.h>

#include <random>

#include "aq/comm/lanes.h"
#include "aq/core/error.h"
#include "support/lane_sums.h"
#include "support/mpi_world.h"

namespace aq {
namespace {

using test::world;

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
                      Index window_bytes = kReduceWindowBytes) {
  const LaneLayout layout{.sequences = 2 * lanes, .lanes = lanes};
  auto reductions = own_partials(layout, cases);
  reduce_to_owners(*make_host_transport(world()), layout, reductions, window_bytes);
  check_results(layout, cases, reductions);
}

TEST(ReduceToOwners, ManyMatricesOnEveryLaneCount) {
  for (Index lanes = 1; lanes <= 64; lanes *= 2)
    reduce_and_check(lanes, random_cases(20, lanes, 300, 1.0, static_cast<int>(lanes)));
}

TEST(ReduceToOwners, WithEmptyLanes) {
  for (const double filled : {0.0, 0.05, 0.3, 0.7})
    for (const Index lanes : {1, 2, 16, 64})
      reduce_and_check(lanes, random_cases(20, lanes, 100, filled, 77));
}

TEST(ReduceToOwners, InSmallBatchesThatRanksCutDifferently) {
  for (const Index window : {1, 400, 1000, 5000})
    reduce_and_check(16, random_cases(60, 16, 300, 0.6, 5), window);
}

TEST(ReduceToOwners, EveryOwnerAndOneForAll) {
  for (int owner = 0; owner < world().size(); ++owner) {
    auto cases = random_cases(10, 8, 200, 0.9, owner);
    for (Case& entry : cases) entry.owner = owner;
    reduce_and_check(8, cases, 700);
  }
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
  reduce_and_check(4, cases, kPieceBytes);
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
