#pragma once
/// Ranks and their messages behind one interface.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Longest single message: longer ones travel in pieces of this size. (Open MPI's tcp transport
/// crashes in large nonblocking operations, and MPI counts end at 2^31.)
inline constexpr Index kPieceBytes = Index{4} << 20;
/// Pieces of all ranks together that one round of all_gather brings into its staging buffer.
inline constexpr Index kGatherPieces = 16;

/// Every rank makes the same collective calls in the same order. Counts are not limited: long
/// messages travel in pieces. Errors of the transport end the job (see abort).
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void barrier() = 0;
  /// Blocking; messages between two ranks with the same tag arrive in order. A rank never sends to
  /// itself.
  virtual void send(std::span<const std::byte> bytes, int to, int tag) = 0;
  virtual void receive(std::span<std::byte> bytes, int from, int tag) = 0;
  /// Starts a transfer that wait_all completes. The bytes must live until then.
  virtual void start_send(std::span<const std::byte> bytes, int to, int tag) = 0;
  virtual void start_receive(std::span<std::byte> bytes, int from, int tag) = 0;
  virtual void wait_all() = 0;
  /// Every rank has `root`'s bytes afterwards. The size is the same on every rank.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Every rank's bytes, by rank. Sizes may differ.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) = 0;
  /// Element-wise over ranks, in place; exact, so the order does not matter.
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// Ends the whole job at once with this exit code; never returns.
  [[noreturn]] virtual void abort(int exit_code) = 0;

  bool is_last() const { return rank() == size() - 1; }
  bool is_first() const { return rank() == 0; }
};

/// The values of every rank, by rank: vectors, or texts. Counts may differ.
template <class Values>
std::vector<Values> all_gather_values(Communicator& comm, const Values& mine) {
  std::vector<Values> all;
  for (const std::vector<std::byte>& bytes : comm.all_gather(std::as_bytes(std::span(mine)))) {
    all.emplace_back(bytes.size() / sizeof(typename Values::value_type),
                     typename Values::value_type{});
    std::ranges::copy(bytes, std::as_writable_bytes(std::span(all.back())).begin());
  }
  return all;
}

/// One rank alone, without MPI.
std::unique_ptr<Communicator> make_self_communicator();
/// All ranks of the job. MPI is started by the first call and finished when the last returned
/// object goes; it cannot be started again after that. Without a launcher it is a job of one rank.
/// An object that goes because of an exception leaves MPI unfinished, since the other ranks may
/// wait for this one: the launcher then ends the job when this process exits.
/// Collective. Throws Error{internal} naming the MPI call that failed.
std::unique_ptr<Communicator> make_mpi_communicator(Index piece_bytes = kPieceBytes);
/// True when the process was started by mpirun, srun or another launcher of MPI ranks.
bool started_by_launcher();
/// Text of the MPI library, e.g. "Open MPI v4.1.4"; does not start MPI.
std::string mpi_library();

}  // namespace aq
