/// Rank 1 fails while the others wait for it: see CMakeLists.txt.

#include <csignal>
#include <cstdio>
#include <exception>
#include <string_view>

#include "aq/comm/communicator.h"
#include "aq/core/error.h"

namespace {

void fail(aq::Communicator& comm, std::string_view how) {
  if (how == "abort") comm.abort(3);
  if (how == "throw") throw aq::Error(aq::ErrorKind::input, "read", "file", "it is broken");
  if (how == "kill") std::raise(SIGKILL);
}

void run(std::string_view how) {
  const auto comm = aq::make_mpi_communicator();
  comm->barrier();
  if (comm->rank() == 1) fail(*comm, how);
  comm->barrier();
  std::puts("the failure was passed by");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? argv[1] : "");
    return 0;
  } catch (const aq::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
