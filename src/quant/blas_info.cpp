#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "aq/core/error.h"
#include "aq/quant/solver.h"
#include "quant/cpu/tile_kernel.h"

namespace aq {
namespace {

/// A function of the BLAS library that only some libraries have.
template <class Function>
Function* find_symbol(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

/// Kernels of OpenBLAS that use neither AVX2 nor AVX-512, in lower case.
constexpr std::array<std::string_view, 19> kOldKernels = {
    "prescott",     "core2",  "penryn",     "dunnington", "nehalem",     "barcelona", "opteron",
    "opteron_sse3", "athlon", "atom",       "bobcat",     "sandybridge", "bulldozer", "piledriver",
    "steamroller",  "katmai", "coppermine", "northwood",  "banias"};

std::string lower(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

}  // namespace

std::string blas_warning(std::string_view kernel, bool avx2, bool avx512) {
  const std::string name = lower(std::string(kernel));
  const bool old = std::find(kOldKernels.begin(), kOldKernels.end(), name) != kOldKernels.end();
  if (!old || !avx2) return {};
  return str("OpenBLAS chose its ", kernel,
             " kernel, made for older processors: matrix products take 2 to 3 times as long; "
             "export OPENBLAS_CORETYPE=",
             avx512 ? "SkylakeX" : "Haswell", " before the start");
}

BlasInfo blas_info() {
  BlasInfo info;
  info.row_kernel = tile_kernel().name;
  auto* config = find_symbol<char*()>("openblas_get_config");
  auto* core = find_symbol<char*()>("openblas_get_corename");
  if (config == nullptr || core == nullptr) {
    info.library = "BLAS";
    return info;
  }
  std::istringstream words(config());
  std::string name;
  std::string version;
  words >> name >> version;
  info.library = name + " " + version;
  info.kernel = core();
#if defined(__x86_64__)
  info.warning = blas_warning(info.kernel, __builtin_cpu_supports("avx2") != 0,
                              __builtin_cpu_supports("avx512bw") != 0);
#endif
  return info;
}

void use_single_threaded_blas() {
  if (auto* set = find_symbol<void(int)>("openblas_set_num_threads")) set(1);
}

}  // namespace aq
