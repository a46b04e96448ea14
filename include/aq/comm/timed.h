#pragma once
/// One call around a piece of work that is measured.

#include <utility>

#include "aq/comm/watchdog.h"
#include "aq/core/timer.h"

namespace aq {

/// Runs `work` and returns what it returns. Its seconds and resources count as `phase`, and a rank
/// that waits in it for long says that it waits for `what`.
template <class Work>
auto timed(PhaseTimes& times, Phase phase, std::string what, const Work& work) {
  const PhaseTimer timer(times, phase);
  const WorkLabel label(std::move(what));
  return work();
}

}  // namespace aq
