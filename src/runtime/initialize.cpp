/// LibTorch and the BLAS below it at one thread: parallelism is the caller's.

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/api/include/torch/version.h>

#include <exception>
#include <mutex>

#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/runtime/pieces.h"

namespace aq::runtime {
namespace {

/// Calls `name(1)` in whichever library of this process has it.
void set_to_one(const char* name) {
  using SetThreads = void (*)(int);
  if (void* symbol = dlsym(RTLD_DEFAULT, name)) reinterpret_cast<SetThreads>(symbol)(1);
}

void initialize_once() {
  at::set_num_threads(1);  // kept for every thread that enters LibTorch later
  try {
    at::set_num_interop_threads(1);
  } catch (const std::exception& error) {  // its pool has started: a host program used LibTorch
    log_debug(str("LibTorch keeps its inter-op threads: ", error.what()));
  }
  set_to_one("openblas_set_num_threads");
  set_to_one("bli_thread_set_num_threads");
}

}  // namespace

void initialize() {
  static std::once_flag once;
  std::call_once(once, initialize_once);
}

std::string torch_version() {
  return TORCH_VERSION;
}

}  // namespace aq::runtime
