#include <gtest/gtest.h>

#include "aq/comm/communicator.h"
#include "aq/comm/lanes.h"
#include "aq/core/error.h"
#include "support/lane_sums.h"

namespace aq {
namespace {

TEST(SelfCommunicator, IsAJobOfOneRank) {
  const auto comm = make_self_communicator();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  EXPECT_TRUE(comm->is_first());
  EXPECT_TRUE(comm->is_last());
}

TEST(SelfCommunicator, CollectivesKeepTheData) {
  const auto comm = make_self_communicator();
  std::vector<std::int64_t> values{3, -5};
  comm->barrier();
  comm->all_reduce_sum(values);
  comm->all_reduce_max(values);
  comm->broadcast(std::as_writable_bytes(std::span(values)), 0);
  EXPECT_EQ(values, (std::vector<std::int64_t>{3, -5}));
  const auto all = comm->all_gather(std::as_bytes(std::span(values)));
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].size(), 16u);
  EXPECT_EQ(all[0][0], std::byte{3});
}

TEST(SelfCommunicator, HasNobodyToTalkTo) {
  const auto comm = make_self_communicator();
  std::vector<std::byte> bytes(4);
  EXPECT_THROW(comm->send(bytes, 0, 1), Error);
  EXPECT_THROW(comm->receive(bytes, 0, 1), Error);
  EXPECT_THROW(comm->start_send(bytes, 1, 1), Error);
  EXPECT_THROW(comm->start_receive(bytes, 1, 1), Error);
  EXPECT_THROW(comm->broadcast(bytes, 1), Error);
  comm->wait_all();
}

TEST(SelfCommunicatorDeathTest, AbortExitsWithTheCode) {
  EXPECT_EXIT(make_self_communicator()->abort(3), testing::ExitedWithCode(3), "");
}

TEST(SelfCommunicator, ReducesToItself) {
  const auto comm = make_self_communicator();
  const LaneLayout layout{.sequences = 8, .lanes = 8};
  std::vector<Reduction> reductions(3);
  for (Index m = 0; m < 3; ++m) {
    TreeSum tree;
    for (Index lane = 0; lane < 8; ++lane) tree.add_lane(lane, test::lane_sum(lane, m, 50));
    reductions[m] = {.values = 50, .partials = tree.take()};
  }
  reduce_to_owners(*make_host_transport(*comm), layout, reductions);
  for (Index m = 0; m < 3; ++m)
    test::expect_same_bits(reductions[m].result,
                           test::naive_tree(std::vector<bool>(8, true), {3, 0}, m, 50));
}

TEST(Reduction, RejectsWhatDoesNotFitTheLayout) {
  const auto comm = make_self_communicator();
  const auto attempt = [&](LaneLayout layout, int owner, Index values) {
    TreeSum tree;
    for (Index lane = 0; lane < 4; ++lane) tree.add_lane(lane, test::lane_sum(lane, 0, 5));
    std::vector<Reduction> reductions{{.owner = owner, .values = values, .partials = tree.take()}};
    reduce_to_owners(*make_host_transport(*comm), layout, reductions);
  };
  const LaneLayout four{.sequences = 4, .lanes = 4};
  EXPECT_NO_THROW(attempt(four, 0, 5));
  EXPECT_THROW(attempt(four, 1, 5), Error) << "no such owner";
  EXPECT_THROW(attempt(four, 0, 6), Error) << "other length";
  EXPECT_THROW(attempt({.sequences = 8, .lanes = 8}, 0, 5), Error) << "lanes are missing";
  EXPECT_THROW(attempt({.sequences = 4, .lanes = 3}, 0, 5), Error) << "no power of two";
}

}  // namespace
}  // namespace aq
