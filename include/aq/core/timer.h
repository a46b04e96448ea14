#pragma once
/// Wall-clock seconds by phase.

#include <chrono>
#include <map>
#include <string>

namespace aq {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Seconds spent in named phases of this process.
struct PhaseTimes {
  std::map<std::string, double> seconds;
};

/// Adds the time from construction to destruction to a phase.
class PhaseTimer {
 public:
  PhaseTimer(PhaseTimes& times, std::string phase) : times_(times), phase_(std::move(phase)) {}
  ~PhaseTimer() { times_.seconds[phase_] += watch_.seconds(); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  PhaseTimes& times_;
  std::string phase_;
  Stopwatch watch_;
};

}  // namespace aq
