/// Three ranks with a watchdog of two seconds: see CMakeLists.txt. The last rank does what the
/// argument says while the others wait for it.

#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string_view>
#include <thread>

#include "aq/comm/communicator.h"
#include "aq/comm/watchdog.h"
#include "aq/core/error.h"

namespace {

void wait_for_last_rank(aq::Communicator& comm) {
  const aq::WorkLabel label("sum of layers.3.down_proj");
  std::byte byte{};
  if (comm.is_first())
    comm.receive({&byte, 1}, comm.size() - 1, 1);
  else
    comm.barrier();
}

void be_last_rank(aq::Communicator& comm, std::string_view what) {
  if (what == "stop") std::raise(SIGSTOP);
  if (what == "compute") std::this_thread::sleep_for(std::chrono::seconds(6));
  if (what == "deadlock") return comm.barrier();
  const std::byte byte{};
  comm.send({&byte, 1}, 0, 1);
  comm.barrier();
}

void run(std::string_view what, const std::filesystem::path& directory) {
  std::optional<aq::StallWatch> watch;
  const auto comm = aq::make_mpi_communicator();
  watch.emplace(2, comm->rank(), comm->size());
  watch->beat_in(directory);
  aq::set_work_place("layer 4/16");
  comm->barrier();
  if (comm->is_last())
    be_last_rank(*comm, what);
  else
    wait_for_last_rank(*comm);
  if (comm->is_first()) comm->barrier();
  if (comm->is_first()) std::puts("all ranks came");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "heartbeats");
    return 0;
  } catch (const aq::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
