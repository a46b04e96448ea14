/// LibTorch and the BLAS below it at one thread: parallelism is the caller's.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <torch/csrc/api/include/torch/version.h>

#include <cstdlib>
#include <exception>
#include <mutex>
#include <string_view>

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

namespace {

/// Whether the user keeps oneDNN, which multiplies bfloat16 for LibTorch, from instructions for it.
bool onednn_is_held_back() {
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"})
    if (const char* isa = std::getenv(name)) {
      const std::string_view most = isa;
      return most != "ALL" && most != "DEFAULT" && most.find("BF16") == most.npos &&
             most.find("AMX") == most.npos;
    }
  return false;
}

}  // namespace

std::string bf16_instructions() {
#ifdef __x86_64__
  if (!at::hasMKLDNN() || onednn_is_held_back() || !__builtin_cpu_supports("avx512bw")) return "";
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1U << 22)) != 0) return "amx_bf16";
  if (__builtin_cpu_supports("avx512bf16")) return "avx512_bf16";
#endif
  return "";
}

std::string torch_version() {
  return TORCH_VERSION;
}

}  // namespace aq::runtime
