/// The only file that calls MPI. Every call is wrapped once, with its name, in check().
#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string_view>
#include <thread>

#include "aq/comm/communicator.h"
#include "aq/core/error.h"
#include "comm/activity.h"

namespace aq {
namespace {

[[noreturn]] void fail(const char* call, std::string_view object, std::string_view reason,
                       std::string_view hint = {}) {
  throw Error(ErrorKind::internal, call, object, reason, hint);
}

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return str("MPI error ", code);
  return {text, static_cast<std::size_t>(length)};
}

void check(int code, const char* call, std::string_view object = {}) {
  if (code != MPI_SUCCESS) fail(call, object, error_text(code));
}

std::optional<int> environment_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::atoi(text);
}

/// srun without a PMI plugin starts N processes that each believe to be alone. They would all do
/// the whole job into the same files.
void check_launched_as_one_job(int size) {
  if (size > 1 || std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return;
  const int tasks = std::getenv("SLURM_STEP_ID") == nullptr
                        ? 1
                        : environment_number("SLURM_STEP_NUM_TASKS").value_or(1);
  if (tasks > 1)
    fail("MPI_Init_thread", "", str("srun started ", tasks, " tasks, but MPI sees one rank"),
         "start with 'srun --mpi=pmix' or with mpirun");
}

/// Starts MPI with the first communicator and finishes it with the last.
class MpiSession {
 public:
  MpiSession() {
    if (live_++ > 0) return;
    int started = 0;
    check(MPI_Initialized(&started), "MPI_Initialized");
    if (started != 0) fail("MPI_Init_thread", "", "MPI was started before in this process");
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    if (provided < MPI_THREAD_FUNNELED)
      fail("MPI_Init_thread", mpi_library(), "does not allow threads beside the one that calls it");
  }
  /// MPI_Finalize waits for the other ranks, which wait for this one when it leaves by an error.
  ~MpiSession() {
    if (--live_ > 0 || std::uncaught_exceptions() != exceptions_) return;
    const Waiting waiting("the end of MPI");
    MPI_Finalize();
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

 private:
  inline static int live_ = 0;
  int exceptions_ = std::uncaught_exceptions();
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(Index piece_bytes) : piece_bytes_(piece_bytes) {
    AQ_CHECK(piece_bytes >= 1 && piece_bytes <= INT_MAX, piece_bytes);
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    check_launched_as_one_job(size_);
  }
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() == exceptions_) MPI_Comm_free(&comm_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override {
    const Waiting waiting("barrier");
    check(MPI_Barrier(comm_), "MPI_Barrier");
  }

  void send(std::span<const std::byte> bytes, int to, int tag) override {
    check_peer(to);
    for_each_piece(bytes, [&](std::span<const std::byte> piece) {
      const Waiting waiting("send to", to);
      check(MPI_Send(piece.data(), count(piece), MPI_BYTE, to, tag, comm_), "MPI_Send",
            between(rank_, to));
    });
  }

  void receive(std::span<std::byte> bytes, int from, int tag) override {
    check_peer(from);
    for_each_piece(bytes, [&](std::span<std::byte> piece) {
      const Waiting waiting("receive from", from);
      MPI_Status status;
      check(MPI_Recv(piece.data(), count(piece), MPI_BYTE, from, tag, comm_, &status), "MPI_Recv",
            between(from, rank_));
      check_received(status, count(piece), "MPI_Recv", from);
    });
  }

  void start_send(std::span<const std::byte> bytes, int to, int tag) override {
    check_peer(to);
    for_each_piece(bytes, [&](std::span<const std::byte> piece) {
      MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
      transfers_.push_back({to, std::nullopt, current_label()});
      check(MPI_Isend(piece.data(), count(piece), MPI_BYTE, to, tag, comm_, &request), "MPI_Isend",
            between(rank_, to));
    });
  }

  void start_receive(std::span<std::byte> bytes, int from, int tag) override {
    check_peer(from);
    for_each_piece(bytes, [&](std::span<std::byte> piece) {
      MPI_Request& request = requests_.emplace_back(MPI_REQUEST_NULL);
      transfers_.push_back({from, count(piece), current_label()});
      check(MPI_Irecv(piece.data(), count(piece), MPI_BYTE, from, tag, comm_, &request),
            "MPI_Irecv", between(from, rank_));
    });
  }

  /// One after the other, so that the watchdog knows which piece of whom is waited for; MPI brings
  /// all of them forward meanwhile.
  void wait_all() override {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      const auto& [peer, expected, label] = transfers_[i];
      const Waiting waiting(expected ? "receive from" : "send to", peer, label);
      MPI_Status status;
      check(MPI_Wait(&requests_[i], &status), "MPI_Wait",
            expected ? between(peer, rank_) : between(rank_, peer));
      if (expected) check_received(status, *expected, "MPI_Wait", peer);
    }
    requests_.clear();
    transfers_.clear();
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    AQ_CHECK(root >= 0 && root < size_, "root ", root, " of ", size_);
    for_each_piece(bytes, [&](std::span<std::byte> piece) {
      const Waiting waiting("broadcast from", root);
      check(MPI_Bcast(piece.data(), count(piece), MPI_BYTE, root, comm_), "MPI_Bcast",
            str("from rank ", root));
    });
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override;

  void all_reduce_sum(std::span<std::int64_t> values) override { all_reduce(values, MPI_SUM); }
  void all_reduce_max(std::span<std::int64_t> values) override { all_reduce(values, MPI_MAX); }

  [[noreturn]] void abort(int exit_code) override { end_job(exit_code); }

 private:
  /// A piece under way: the peer, and how many bytes must come (nothing for a send).
  struct Transfer {
    int peer;
    std::optional<int> expected;
    std::shared_ptr<const std::string> label;
  };

  /// Calls body with consecutive pieces of at most piece_bytes_ elements; none for an empty span.
  template <class T, class Body>
  void for_each_piece(std::span<T> values, const Body& body) const {
    const auto piece = static_cast<std::size_t>(piece_bytes_);
    for (std::size_t begin = 0; begin < values.size(); begin += piece)
      body(values.subspan(begin, std::min(piece, values.size() - begin)));
  }

  template <class T>
  static int count(std::span<T> values) {
    return checked_cast<int>(values.size());
  }

  static std::string between(int from, int to) { return str("rank ", from, " to rank ", to); }

  void check_peer(int peer) const {
    AQ_CHECK(peer >= 0 && peer < size_ && peer != rank_, "peer ", peer, " of ", size_,
             " ranks, on rank ", rank_);
  }

  void check_received(const MPI_Status& status, int expected, const char* call, int from) const {
    int received = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &received), "MPI_Get_count");
    if (received != expected)
      fail(call, between(from, rank_), str(received, " bytes came instead of ", expected));
  }

  void all_reduce(std::span<std::int64_t> values, MPI_Op operation) {
    for_each_piece(values, [&](std::span<std::int64_t> piece) {
      const Waiting waiting("sum or maximum over all ranks");
      // NOLINTNEXTLINE(mpi-type-mismatch): it knows int64_t as long long only
      check(MPI_Allreduce(MPI_IN_PLACE, piece.data(), count(piece), MPI_INT64_T, operation, comm_),
            "MPI_Allreduce");
    });
  }

  std::vector<std::int64_t> all_gather_sizes(std::size_t own) {
    auto size = checked_cast<std::int64_t>(own);
    std::vector<std::int64_t> sizes(size_);
    const Waiting waiting("gathering from all ranks");
    // NOLINTNEXTLINE(mpi-type-mismatch): it knows int64_t as long long only
    check(MPI_Allgather(&size, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_),
          "MPI_Allgather");
    return sizes;
  }

  Index piece_bytes_;
  MpiSession session_;  // first constructed, last destroyed
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int exceptions_ = std::uncaught_exceptions();
  std::vector<MPI_Request> requests_;
  std::vector<Transfer> transfers_;
};

/// In rounds that each bring at most kGatherPieces in all, so that counts and displacements fit an
/// int and the staging buffer stays small.
std::vector<std::vector<std::byte>> MpiCommunicator::all_gather(std::span<const std::byte> bytes) {
  const std::vector<std::int64_t> sizes = all_gather_sizes(bytes.size());
  const std::int64_t longest = *std::max_element(sizes.begin(), sizes.end());
  const std::int64_t share = std::max<std::int64_t>(
      1, std::min<std::int64_t>(kGatherPieces * piece_bytes_, INT_MAX) / size_);
  std::vector<std::vector<std::byte>> all(sizes.size());
  for (std::size_t r = 0; r < all.size(); ++r) all[r].reserve(sizes[r]);

  std::vector<int> counts(sizes.size());
  std::vector<int> offsets(sizes.size());
  std::vector<std::byte> staging;
  for (std::int64_t begin = 0; begin < longest; begin += share) {
    int total = 0;
    for (std::size_t r = 0; r < sizes.size(); ++r) {
      counts[r] = static_cast<int>(std::clamp<std::int64_t>(sizes[r] - begin, 0, share));
      offsets[r] = total;
      total += counts[r];
    }
    staging.resize(total);
    const int own = counts[rank_];
    const Waiting waiting("gathering from all ranks");
    check(MPI_Allgatherv(own > 0 ? bytes.data() + begin : nullptr, own, MPI_BYTE, staging.data(),
                         counts.data(), offsets.data(), MPI_BYTE, comm_),
          "MPI_Allgatherv");
    for (std::size_t r = 0; r < all.size(); ++r) {
      const auto first = staging.begin() + offsets[r];
      all[r].insert(all[r].end(), first, first + counts[r]);
    }
  }
  return all;
}

}  // namespace

void end_job(int exit_code) {
  std::fflush(nullptr);
  // MPI_Abort may itself wait for a launcher that is gone.
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    std::_Exit(exit_code);
  }).detach();
  int started = 0, finished = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&finished);
  if (started != 0 && finished == 0) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::unique_ptr<Communicator> make_mpi_communicator(Index piece_bytes) {
  return std::make_unique<MpiCommunicator>(piece_bytes);
}

bool started_by_launcher() {
  // An sbatch script has SLURM_PROCID too; only a step started by srun has a step number.
  const bool by_srun =
      std::getenv("SLURM_STEP_ID") != nullptr && std::getenv("SLURM_PROCID") != nullptr;
  return by_srun || std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr ||
         std::getenv("PMIX_RANK") != nullptr || std::getenv("PMI_RANK") != nullptr;
}

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  check(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  const std::string_view version(text, static_cast<std::size_t>(length));
  return std::string(version.substr(0, version.find_first_of(",\n")));
}

}  // namespace aq
