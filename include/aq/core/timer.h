#pragma once
/// Wall-clock seconds and memory by phase.

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <string>

#include "aq/core/index.h"

namespace aq {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Seconds spent in named phases of this process, and the most memory in each.
struct PhaseTimes {
  std::map<std::string, double> seconds;
  std::map<std::string, Index> peak_bytes;  ///< only with take_peak
  std::function<Index()> take_peak;         ///< MemoryWatch::take_peak; may be empty
};

/// Adds the time from construction to destruction to a phase, and sees its memory.
class PhaseTimer {
 public:
  PhaseTimer(PhaseTimes& times, std::string phase) : times_(times), phase_(std::move(phase)) {
    if (times_.take_peak) times_.take_peak();
  }
  ~PhaseTimer() {
    times_.seconds[phase_] += watch_.seconds();
    if (!times_.take_peak) return;
    Index& peak = times_.peak_bytes[phase_];
    peak = std::max(peak, times_.take_peak());
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  PhaseTimes& times_;
  std::string phase_;
  Stopwatch watch_;
};

}  // namespace aq
