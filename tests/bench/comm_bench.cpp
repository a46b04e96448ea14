/// Speed of what ranks send each other, beside the memory of the machine. On ranks of one machine a
/// byte that is sent is read and written at least once.

#include <algorithm>
#include <cstdio>
#include <memory>

#include "aq/comm/counting.h"
#include "aq/comm/lanes.h"
#include "aq/core/text.h"
#include "aq/quant/hessian.h"
#include "bench/bench.h"

namespace aq::bench {
namespace {

/// Bytes that arrive when `body` runs, of all ranks.
double bytes_of(Communicator& ranks, const std::function<void(Communicator&)>& body) {
  CountingCommunicator counting(ranks);
  body(counting);
  Index received = counting.bytes().received;
  ranks.all_reduce_sum({&received, 1});
  return static_cast<double>(received);
}

/// Value `i` of a lane's sum: small integers, whose sums are exact.
float lane_value(Index lane, Index matrix, Index i) {
  return static_cast<float>((7 * lane + 3 * matrix + i) % 13 - 5);
}

/// Sums of `count` matrices of all lanes come to their owners.
/// @param owners  ranks that own matrices, in turn
Trial reduce_trial(Communicator& ranks, Index count, Index columns, int owners) {
  struct State {
    LaneLayout layout;
    std::vector<Reduction> start, now;
  };
  const auto s = std::make_shared<State>();
  s->layout.sequences = s->layout.lanes = default_lane_count(16);
  const Range own = s->layout.lanes_of_rank(ranks.rank(), ranks.size());
  const Index values = hessian_size(columns);
  for (Index m = 0; m < count; ++m) {
    TreeSum tree;
    for (Index lane = own.begin; lane < own.end; ++lane) {
      WeightedSum sum{.values = FloatArray(values), .weight_sum = 1, .tokens = 1};
      for (Index i = 0; i < values; ++i) sum.values[i] = lane_value(lane, m, i);
      tree.add_lane(lane, std::move(sum));
    }
    s->start.push_back(
        {.owner = static_cast<int>(m % owners), .values = values, .partials = tree.take()});
  }
  const auto reduce = [s](Communicator& comm) {
    reduce_to_owners(*make_host_transport(comm), s->layout, s->now);
  };
  const auto wrong = [s, &ranks] {
    double count_wrong = 0;
    for (Index m = 0; m < std::ssize(s->now); ++m) {
      const Reduction& reduced = s->now[m];
      if (reduced.owner != ranks.rank()) continue;
      if (reduced.result.tokens != s->layout.lanes) return 1e30;
      for (Index i = 0; i < reduced.values; ++i) {
        float expected = 0;
        for (Index lane = 0; lane < s->layout.lanes; ++lane) expected += lane_value(lane, m, i);
        count_wrong += reduced.result.values[i] != expected;
      }
    }
    return count_wrong;
  };
  s->now = s->start;
  return {.work = bytes_of(ranks, reduce),
          .bound = Bound::memory,
          .reset = [s] { s->now = s->start; },
          .body = [reduce, &ranks] { reduce(ranks); },
          .error = wrong};
}

/// Byte `i` that `rank` sends.
std::byte sent_byte(int rank, Index i) {
  return static_cast<std::byte>((i + 17 * rank + i / 251) & 0xFF);
}
ByteArray message(int rank, Index bytes) {
  ByteArray out(bytes);
  for (Index i = 0; i < bytes; ++i) out[i] = sent_byte(rank, i);
  return out;
}
double wrong_bytes(const ByteArray& got, int rank) {
  double wrong = 0;
  for (Index i = 0; i < std::ssize(got); ++i) wrong += got[i] != sent_byte(rank, i);
  return wrong;
}

/// Every rank has the bytes of the first one.
Trial broadcast_trial(Communicator& ranks, Index bytes) {
  const auto data = std::make_shared<ByteArray>();
  return {.work = static_cast<double>(bytes) * (ranks.size() - 1),
          .bound = Bound::memory,
          .reset = [data, bytes, &ranks] { *data = message(ranks.rank(), bytes); },
          .body = [data, &ranks] { ranks.broadcast(*data, 0); },
          .error = [data] { return wrong_bytes(*data, 0); }};
}

/// Every rank sends every other one a message, as solved rows and tokens travel.
Trial exchange_trial(Communicator& ranks, Index bytes) {
  struct State {
    ByteArray sent;
    std::vector<ByteArray> received;
  };
  const auto s = std::make_shared<State>();
  s->sent = message(ranks.rank(), bytes);
  s->received.assign(ranks.size(), ByteArray(bytes, std::byte{0}));
  const auto exchange = [s, &ranks] {
    constexpr int kTag = 5;
    for (int other = 0; other < ranks.size(); ++other)
      if (other != ranks.rank()) ranks.start_receive(s->received[other], other, kTag);
    for (int other = 0; other < ranks.size(); ++other)
      if (other != ranks.rank()) ranks.start_send(s->sent, other, kTag);
    ranks.wait_all();
  };
  const auto wrong = [s, &ranks] {
    double all = 0;
    for (int other = 0; other < ranks.size(); ++other)
      if (other != ranks.rank()) all += wrong_bytes(s->received[other], other);
    return all;
  };
  return {.work = static_cast<double>(bytes) * ranks.size() * (ranks.size() - 1),
          .bound = Bound::memory,
          .body = exchange,
          .error = wrong};
}

std::vector<Case> cases(const Options& options, Communicator& ranks) {
  if (ranks.size() == 1)
    throw Error(ErrorKind::usage, "comm_bench", "one rank", "it has nobody to send to",
                "mpirun -n 2 comm_bench");
  const Index scale = options.small ? 8 : 1;
  const Index columns = 2048 / scale, count = 8, bytes = (Index{32} << 20) / (scale * scale);
  const std::string sums = str(count, " x [", columns, ", ", columns, "]");
  return {{"reduce to one owner " + sums,
           [=, &ranks] { return reduce_trial(ranks, count, columns, 1); }},
          {"reduce to all owners " + sums,
           [=, &ranks] { return reduce_trial(ranks, count, columns, ranks.size()); }},
          {"broadcast " + bytes_text(bytes), [=, &ranks] { return broadcast_trial(ranks, bytes); }},
          {"exchange " + bytes_text(bytes), [=, &ranks] { return exchange_trial(ranks, bytes); }}};
}

}  // namespace
}  // namespace aq::bench

int main(int argc, char** argv) {
  using namespace aq;
  std::unique_ptr<Communicator> ranks;
  try {
    ranks = make_mpi_communicator();
    const int code = bench::run(
        argc, argv,
        {.about = "Speed of messages between ranks, beside the memory of this machine: mpirun -n 2 "
                  "comm_bench",
         .cases = [&](const bench::Options& options) { return bench::cases(options, *ranks); }},
        *ranks);
    ranks.reset();
    return code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (ranks) ranks->abort(1);
    return 1;
  }
}
