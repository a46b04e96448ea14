#pragma once
/// Peaks of the machine, measured with the threads in use.

#include <map>
#include <vector>

#include "bench/bench.h"

namespace aq::bench {

/// Loops compiled for one instruction set (probe_loops.inl).
struct ProbeLoops {
  const char* name;  ///< as BlasInfo::row_kernel
  /// Independent multiply-adds in registers; returns the floating-point operations. `sink` receives
  /// what they give.
  double (*multiply_add)(Index steps, float& sink);
  float (*read)(const float* from, Index count);
  void (*triad)(float* to, const float* a, const float* b, float factor, Index count);
};
namespace probe_baseline {
extern const ProbeLoops loops;
}
namespace probe_v3 {
extern const ProbeLoops loops;
}
namespace probe_v4 {
extern const ProbeLoops loops;
}

/// The same in bfloat16 by vdpbf16ps.  @pre the processor has avx512_bf16
double multiply_add_bf16(Index steps, float& sink);

/// fp32: multiply-adds in registers, with the vectors of the kernels in use. bf16: vdpbf16ps, where
/// compiler and processor have it. memory: reading, and a triad, whose writes count once.
std::map<Bound, std::vector<Probe>> common_probes();

}  // namespace aq::bench
