#include "app/measure_machine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "app/pipeline_library.h"
#include "aq/core/memory.h"
#include "aq/core/parallel.h"
#include "aq/core/timer.h"
#include "aq/plan/cost.h"
#include "aq/quant/hessian.h"
#include "aq/quant/solver.h"

namespace aq::app {
namespace {

constexpr Index kColumns = 1024;
constexpr Index kRows = 1024;
constexpr Index kTokens = 2048;
constexpr Index kFileBytes = Index{256} << 20;
constexpr Index kMessageBytes = Index{32} << 20;
constexpr int kAttempts = 3;

/// Most amount / seconds of a few attempts.
template <class Body>
double rate_of(double amount, const Body& body) {
  double best = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Stopwatch watch;
    body();
    best = std::max(best, amount / watch.seconds());
  }
  return best;
}

Matrix random_matrix(Index rows, Index columns) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Matrix matrix(rows, columns);
  for (float& value : matrix.values) value = normal(random);
  return matrix;
}

/// Rates of one core in Hessian sums, factors, solutions and sweeps, with every thread at work.
void measure_solver(Machine& machine) {
  const Solver& solver = default_solver();
  const double threads = thread_count();
  const double n = kColumns;
  const Matrix x = random_matrix(kTokens, kColumns);
  const Matrix weight = random_matrix(kRows, kColumns);
  WeightedSum sum;
  machine.hessian_flops = rate_of(kTokens * n * (n + 1) / threads, [&] {
    sum = {};
    solver.add_tokens(sum, x.view(), {}, {}, static_cast<double>(kTokens));
  });
  GptqSettings settings;
  FactorTask work{{}, kColumns};
  machine.factor_flops = rate_of(n * n * n / 3 / threads, [&] {
    work.sum = sum;
    solver.factorize({&work, 1}, settings);
  });
  const auto seconds = [&](int sweeps) {
    settings.refine = sweeps;
    return 1 / rate_of(1, [&] {
             SolveTask task{.weight = weight.view(), .factor = &work.factor};
             solver.solve({&task, 1}, settings);
           });
  };
  constexpr int kSweeps = 4;
  const double plain = seconds(0);
  const double swept = seconds(kSweeps);
  const double row_flops = kRows * n * n / threads;
  machine.solve_flops = row_flops * (1 + 2.0 / static_cast<double>(kErrorRowStride)) / plain;
  machine.refine_flops =
      kRows * refine_flops(n, kSweeps) / threads / std::max(swept - plain, plain / 100);
}

double measure_memory() {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  const double threads = thread_count();
  std::vector<std::vector<char>> from(thread_count()), to = from;
  for (auto* all : {&from, &to})
    for (auto& block : *all) block.assign(kBytes, 1);
  return rate_of(2 * threads * static_cast<double>(kBytes), [&] {
    parallel_for(thread_count(), [&](Index i) {
      const auto at = static_cast<std::size_t>(i);
      std::memcpy(to[at].data(), from[at].data(), kBytes);
    });
  });
}

/// Writing with fsync, and reading what the page cache has given up where the system lets it.
void measure_files(const std::filesystem::path& directory, Machine& machine) {
  const std::filesystem::path path = directory / ".aq-dist-measure";
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (file < 0)
    throw Error(ErrorKind::input, "measure the files", path.string(), std::strerror(errno));
  std::vector<char> block(std::size_t{4} << 20, 'x');
  const auto blocks = kFileBytes / std::ssize(block);
  bool whole = true;
  Stopwatch writing;
  for (Index i = 0; i < blocks; ++i)
    whole = whole && ::write(file, block.data(), block.size()) == std::ssize(block);
  whole = whole && ::fsync(file) == 0;
  machine.write_bandwidth = static_cast<double>(kFileBytes) / writing.seconds();
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  Stopwatch reading;
  for (Index i = 0; i < blocks; ++i)
    whole = whole &&
            ::pread(file, block.data(), block.size(), i * std::ssize(block)) == std::ssize(block);
  machine.read_bandwidth = static_cast<double>(kFileBytes) / reading.seconds();
  ::close(file);
  std::filesystem::remove(path);
  if (!whole) throw Error(ErrorKind::input, "measure the files", path.string(), "it failed");
  machine.file_system_bandwidth = std::max(machine.read_bandwidth, machine.write_bandwidth);
}

/// There and back between the first and the last rank.
double round_trip(Communicator& comm, std::vector<std::byte>& message, int times) {
  constexpr int kTag = 11;
  const int other = comm.is_first() ? comm.size() - 1 : 0;
  comm.barrier();
  const Stopwatch watch;
  for (int i = 0; i < times && (comm.is_first() || comm.is_last()); ++i) {
    if (comm.is_first()) comm.send(message, other, kTag);
    comm.receive(message, other, kTag);
    if (!comm.is_first()) comm.send(message, other, kTag);
  }
  return watch.seconds() / times;
}

void measure_network(Communicator& comm, Machine& machine) {
  std::vector<std::byte> message(kMessageBytes);
  std::vector<std::byte> word(8);
  const double latency = round_trip(comm, word, 1000) / 2;
  const double seconds = round_trip(comm, message, kAttempts) / 2;
  machine.network_latency = latency;
  machine.network_bandwidth = static_cast<double>(kMessageBytes) / seconds;
}

}  // namespace

Machine measure_machine(const std::filesystem::path& directory, Communicator& comm) {
  Machine machine;
  machine.name = "measured";
  machine.cores = static_cast<Index>(std::thread::hardware_concurrency());
  machine.memory_bytes = available_bytes();
  if (comm.is_first()) {
    use_single_threaded_blas();
    measure_solver(machine);
    machine.forward_flops = pipeline().measure_forward(DType::f32);
    machine.forward_bf16_flops = pipeline().measure_forward(DType::bf16);
    machine.memory_bandwidth = measure_memory();
    measure_files(directory, machine);
    machine.network_bandwidth = machine.memory_bandwidth / 2;
  }
  if (comm.size() > 1) measure_network(comm, machine);
  return machine;
}

}  // namespace aq::app
