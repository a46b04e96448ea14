#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "aq/comm/communicator.h"
#include "aq/core/error.h"
#include "support/mpi_world.h"

namespace aq {
namespace {

using test::world;

/// Bytes that differ by place, sender and message.
std::vector<std::byte> pattern(std::size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((i * 131 + (i >> 8) * 31 + static_cast<std::size_t>(seed)));
  return bytes;
}

int next_rank() {
  return (world().rank() + 1) % world().size();
}
int previous_rank() {
  return (world().rank() + world().size() - 1) % world().size();
}

/// Every rank sends to the next one; the first receives first, the others send first.
void ring(Communicator& comm, std::size_t size) {
  if (comm.size() == 1) return;
  const auto out = pattern(size, comm.rank());
  std::vector<std::byte> in(size);
  if (comm.is_first()) {
    comm.receive(in, previous_rank(), 5);
    comm.send(out, next_rank(), 5);
  } else {
    comm.send(out, next_rank(), 5);
    comm.receive(in, previous_rank(), 5);
  }
  EXPECT_EQ(in, pattern(size, previous_rank())) << size << " bytes";
}

TEST(Messages, OfEveryLengthAroundAPiece) {
  const auto small_pieces = make_mpi_communicator(64);
  for (std::size_t size = 0; size <= 260; ++size) ring(*small_pieces, size);
}

TEST(Messages, OfSeveralFullPieces) {
  ring(world(), static_cast<std::size_t>(2 * kPieceBytes + 1));
}

/// Every rank exchanges messages of other lengths with every rank, all started before any wait.
void exchange_with_all(Communicator& comm, std::size_t unit) {
  const auto length = [unit](int from, int to) {
    return unit * static_cast<std::size_t>(from + 2 * to);
  };
  std::vector<std::vector<std::byte>> in;
  std::vector<std::vector<std::byte>> out;
  for (int r = 0; r < comm.size(); ++r) {
    in.emplace_back(length(r, comm.rank()));
    out.push_back(pattern(length(comm.rank(), r), comm.rank() + 10 * r));
  }
  for (std::size_t r = 0; r < in.size(); ++r) {
    const int peer = static_cast<int>(r);
    if (peer == comm.rank()) continue;
    comm.start_send(out[r], peer, 9);
    comm.start_receive(in[r], peer, 9);
  }
  comm.wait_all();
  for (std::size_t r = 0; r < in.size(); ++r) {
    const int peer = static_cast<int>(r);
    if (peer != comm.rank()) {
      EXPECT_EQ(in[r], pattern(in[r].size(), peer + 10 * comm.rank()));
    }
  }
}

TEST(StartedMessages, BetweenAllPairsAtOnce) {
  const auto small_pieces = make_mpi_communicator(64);
  for (const std::size_t unit : {0u, 1u, 63u, 64u, 100u, 5000u})
    exchange_with_all(*small_pieces, unit);
  exchange_with_all(world(), static_cast<std::size_t>(kPieceBytes / 3));
}

TEST(StartedMessages, OfOneTagArriveInOrder) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto comm = make_mpi_communicator(16);
  std::vector<std::vector<std::byte>> messages;
  for (std::size_t i = 0; i < 40; ++i)
    messages.push_back(comm->is_first() ? pattern(i * 7, static_cast<int>(i))
                                        : std::vector<std::byte>(i * 7));
  for (auto& message : messages) {
    if (comm->is_first()) comm->start_send(message, 1, 2);
    if (comm->rank() == 1) comm->start_receive(message, 0, 2);
  }
  comm->wait_all();
  if (comm->rank() > 1) return;
  for (std::size_t i = 0; i < messages.size(); ++i)
    EXPECT_EQ(messages[i], pattern(i * 7, static_cast<int>(i)));
}

TEST(StartedMessages, WaitingForNothingIsFine) {
  world().wait_all();
  world().wait_all();
}

TEST(Messages, ToOneselfOrToNobodyAreRefused) {
  std::vector<std::byte> bytes(4);
  EXPECT_THROW(world().send(bytes, world().rank(), 1), Error);
  EXPECT_THROW(world().start_receive(bytes, world().size(), 1), Error);
  EXPECT_THROW(world().broadcast(bytes, -1), Error);
}

TEST(Messages, OfAnotherLengthAreAnErrorThatNamesTheCall) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto comm = make_mpi_communicator();
  const auto message_of = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  std::vector<std::byte> four(4);
  std::vector<std::byte> eight(8);
  if (comm->is_first()) {
    comm->send(four, 1, 1);
    comm->send(eight, 1, 2);
  }
  if (comm->rank() == 1) {
    EXPECT_THAT(message_of([&] { comm->receive(eight, 0, 1); }),
                testing::HasSubstr("MPI_Recv: rank 0 to rank 1: 4 bytes came instead of 8"));
    EXPECT_THAT(message_of([&] { comm->receive(four, 0, 2); }),
                testing::AllOf(testing::HasSubstr("MPI_Recv: rank 0 to rank 1: "),
                               testing::HasSubstr("truncated")));
  }
}

TEST(AllGather, UnevenAndEmpty) {
  const auto small_pieces = make_mpi_communicator(16);
  for (const std::size_t unit : {0u, 1u, 7u, 100u, 3000u}) {
    const auto size_of = [unit](int rank) { return unit * static_cast<std::size_t>(rank % 3); };
    const auto all = small_pieces->all_gather(pattern(size_of(world().rank()), world().rank()));
    ASSERT_EQ(all.size(), static_cast<std::size_t>(world().size()));
    for (int r = 0; r < world().size(); ++r)
      EXPECT_EQ(all[r], pattern(size_of(r), r)) << unit << " of " << r;
  }
}

TEST(AllGather, OfSeveralFullPieces) {
  const std::size_t size = world().is_last() ? static_cast<std::size_t>(2 * kPieceBytes + 3) : 1;
  const auto all = world().all_gather(pattern(size, world().rank()));
  EXPECT_EQ(all.back(), pattern(static_cast<std::size_t>(2 * kPieceBytes + 3), world().size() - 1));
  if (world().size() > 1) {
    EXPECT_EQ(all.front(), pattern(1, 0));
  }
}

TEST(Broadcast, FromEveryRank) {
  const auto small_pieces = make_mpi_communicator(64);
  for (int root = 0; root < world().size(); ++root)
    for (const std::size_t size : {0u, 1u, 64u, 65u, 1000u}) {
      auto bytes = pattern(size, world().rank());
      small_pieces->broadcast(bytes, root);
      EXPECT_EQ(bytes, pattern(size, root));
    }
}

TEST(AllReduce, SumAndMaxInPieces) {
  const auto small_pieces = make_mpi_communicator(8);
  const Index ranks = world().size();
  for (const std::size_t size : {0u, 1u, 8u, 9u, 100u}) {
    std::vector<std::int64_t> sum(size);
    std::iota(sum.begin(), sum.end(), std::int64_t{1} << 40);
    auto max = sum;
    for (auto& value : max) value -= world().rank();
    const auto own = sum;
    small_pieces->all_reduce_sum(sum);
    small_pieces->all_reduce_max(max);
    for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(sum[i], ranks * own[i]);
    EXPECT_EQ(max, own);
  }
}

TEST(Mpi, DescribesItself) {
  EXPECT_FALSE(mpi_library().empty());
  EXPECT_EQ(mpi_library().find(','), std::string::npos);
  if (world().size() > 1) {
    EXPECT_TRUE(started_by_launcher());
  }
  world().barrier();
}

TEST(Mpi, CommunicatorsDoNotMixTheirMessages) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto other = make_mpi_communicator();
  std::vector<std::byte> one{std::byte{1}};
  std::vector<std::byte> two{std::byte{2}};
  if (world().is_first()) {
    world().send(one, 1, 4);
    other->send(two, 1, 4);
  }
  if (world().rank() == 1) {
    std::vector<std::byte> in(1);
    other->receive(in, 0, 4);
    EXPECT_EQ(in, two);
    world().receive(in, 0, 4);
    EXPECT_EQ(in, one);
  }
}

}  // namespace
}  // namespace aq
