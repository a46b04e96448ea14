#pragma once
/// Progress of a long run: a bar on a terminal, plain lines in a batch log.

#include <string>

#include "aq/core/index.h"
#include "aq/core/timer.h"

namespace aq {

/// Prints on standard error. Only one rank should have one that is not quiet.
class Progress {
 public:
  /// `steps` in all; nothing is printed when quiet.
  Progress(Index steps, bool quiet);
  /// The step in work, e.g. "layer 3/16: experts 17..32".
  void at(Index done, const std::string& what);
  /// What a step gave. In a log it is a line; on a terminal, which has the bar, only what is worth
  /// a look stays.
  void step(const std::string& text, bool worth_a_look);
  /// Removes the bar.
  void finish();
  /// Seconds left, from the steps done since the start; 0 when not known yet.
  double remaining(Index done) const;
  double elapsed() const { return watch_.seconds(); }
  /// Steps done before the clock started to count for remaining() (resumed layers).
  void skip(Index done);

 private:
  void draw() const;
  void erase() const;

  Index steps_;
  bool quiet_;
  bool terminal_;
  Index done_ = 0;
  Index skipped_ = 0;
  double skipped_at_ = 0;
  std::string what_;
  Stopwatch watch_;
};

}  // namespace aq
