#pragma once
/// Wall-clock seconds and resources by phase.

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

#include "aq/core/index.h"
#include "aq/core/stage.h"

namespace aq {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// What a process has used: bytes of files and messages since its start, and the most memory since
/// it was last asked.
struct ResourceUse {
  Index peak_bytes = 0;
  Index read = 0, written = 0;
  Index sent = 0, received = 0;
};

/// Seconds spent in the phases of this process, and what they used.
struct PhaseTimes {
  std::map<Phase, double> seconds;
  std::map<Phase, ResourceUse> use;    ///< only with `probe`
  std::function<ResourceUse()> probe;  ///< may be empty
  std::function<void(Phase)> begins;   ///< called before a phase; may be empty
};

/// Adds the time from construction to destruction to a phase, and what was used meanwhile.
class PhaseTimer {
 public:
  PhaseTimer(PhaseTimes& times, Phase phase) : times_(times), phase_(phase) {
    if (times.begins) times.begins(phase);
    start_ = use();
  }
  ~PhaseTimer() {
    times_.seconds[phase_] += watch_.seconds();
    if (!times_.probe) return;
    const ResourceUse now = use();
    ResourceUse& all = times_.use[phase_];
    all.peak_bytes = std::max(all.peak_bytes, now.peak_bytes);
    all.read += now.read - start_.read;
    all.written += now.written - start_.written;
    all.sent += now.sent - start_.sent;
    all.received += now.received - start_.received;
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  ResourceUse use() const { return times_.probe ? times_.probe() : ResourceUse{}; }

  PhaseTimes& times_;
  Phase phase_;
  ResourceUse start_;
  Stopwatch watch_;
};

}  // namespace aq
