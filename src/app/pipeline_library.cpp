#include "app/pipeline_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "aq/comm/common_error.h"
#include "aq/core/log.h"
#include "aq/core/stop.h"

namespace aq::app {
namespace {

constexpr const char* kLibrary = "libaq-pipeline.so";

/// Whether the library lies where this program looks for it.
bool is_installed() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto library = program.parent_path().parent_path() / "lib" / kLibrary;
  return !error && std::filesystem::exists(library, error);
}

/// The error of this rank, printed so that a failure common to all ranks shows once: the first rank
/// speaks at once and ends the job, the others wait a moment; longer where they know that it does.
[[noreturn]] void fail(Communicator& comm, const std::exception& error, const char* text,
                       int exit_code) {
  using std::chrono::milliseconds;
  const bool common = dynamic_cast<const CommonError*>(&error) != nullptr;
  if (!comm.is_first()) std::this_thread::sleep_for(milliseconds(common ? 20'000 : 500));
  log_error(text);
  comm.abort(exit_code);
  std::_Exit(exit_code);  // abort does not return, but the compiler does not see that through a
                          // virtual call
}

}  // namespace

const PipelineEntry& pipeline() {
  static const PipelineEntry* entry = [] {
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr)
      throw Error(ErrorKind::internal, "load the forward pass", kLibrary, dlerror(),
                  is_installed() ? "the file is there: raise the limit of memory (`ulimit -v`, the "
                                   "job's), or install what it needs"
                                 : "build with AQ_BUILD_RUNTIME=ON, and keep lib/ beside bin/");
    using EntryFunction = const PipelineEntry* (*)();
    const auto function = reinterpret_cast<EntryFunction>(dlsym(library, "aq_pipeline_entry"));
    AQ_CHECK(function != nullptr, dlerror());
    return function();
  }();
  return *entry;
}

int run_on_ranks(const std::function<int(Communicator&)>& body) {
  install_stop_handlers();
  const std::unique_ptr<Communicator> comm =
      started_by_launcher() ? make_mpi_communicator() : make_self_communicator();
  if (comm->size() > 1) set_log_prefix(comm->is_first() ? "" : str("rank ", comm->rank(), ": "));
  try {
    return body(*comm);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::stopped) fail(*comm, error, error.what(), error.exit_code());
    if (comm->is_first()) log_info(error.what());
    return error.exit_code();
  } catch (const std::bad_alloc& error) {
    fail(*comm, error, "out of memory: use --memory, more ranks or fewer sequences",
         static_cast<int>(ErrorKind::internal));
  } catch (const std::exception& error) {
    fail(*comm, error, error.what(), static_cast<int>(ErrorKind::internal));
  }
}

}  // namespace aq::app
