#include "quant/cpu/tile_kernel.h"

namespace aq {

const TileKernel& tile_kernel() {
#if defined(__x86_64__)
  static const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  static const bool v4 = v3 && __builtin_cpu_supports("avx512f") &&
                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (v4) return tile_v4::kernel;
  if (v3) return tile_v3::kernel;
#endif
  return tile_baseline::kernel;
}

}  // namespace aq
