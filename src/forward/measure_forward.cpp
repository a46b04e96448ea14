#include "aq/forward/measure_forward.h"

#include <algorithm>

#include "aq/core/parallel.h"
#include "aq/core/timer.h"
#include "aq/runtime/operations.h"

namespace aq {

double measure_forward(DType dtype) {
  constexpr Index kTokens = 512, kWidth = 1024, kTimes = 8;
  constexpr double kFlops = 2.0 * kTokens * kWidth * kWidth * kTimes;
  runtime::initialize();
  if (dtype != DType::f32 && runtime::bf16_instructions().empty()) return 0;
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    Stopwatch watch;
    parallel_for(thread_count(), [&](Index) {
      const Tensor x = Tensor::zeros(kTokens, kWidth, {{}, dtype});
      const Tensor weight = Tensor::zeros(kWidth, kWidth, {{}, dtype});
      const Tensor out(kTokens, kWidth);
      for (Index i = 0; i < kTimes; ++i) runtime::linear(x, weight, {}, out.window());
    });
    best = std::max(best, kFlops / watch.seconds());
  }
  return best;
}

}  // namespace aq
