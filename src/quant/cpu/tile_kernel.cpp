#include "quant/cpu/tile_kernel.h"

namespace aq {

const TileKernel& tile_kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return tile_v4::kernel;
  if (__builtin_cpu_supports("x86-64-v3")) return tile_v3::kernel;
#endif
  return tile_baseline::kernel;
}

}  // namespace aq
