#include "aq/forward/measure_forward.h"

#include <algorithm>

#include "aq/core/matrix_view.h"
#include "aq/core/parallel.h"
#include "aq/core/timer.h"
#include "aq/runtime/pieces.h"

namespace aq {

double measure_forward() {
  constexpr Index kTokens = 512, kWidth = 1024, kTimes = 8;
  constexpr double kFlops = 2.0 * kTokens * kWidth * kWidth * kTimes;
  runtime::initialize();
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    Stopwatch watch;
    parallel_for(thread_count(), [&](Index) {
      const Matrix x(kTokens, kWidth), weight(kWidth, kWidth);
      Matrix out(kTokens, kWidth);
      for (Index i = 0; i < kTimes; ++i) runtime::linear(x.view(), weight.view(), out.view());
    });
    best = std::max(best, kFlops / watch.seconds());
  }
  return best;
}

}  // namespace aq
