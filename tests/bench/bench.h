#pragma once
/// What the programs of this folder share: command line, timing, measured peaks, and the two lines
/// that are printed of a measurement, one for people and one of JSON.

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/core/index.h"

namespace aq::bench {

struct Options {
  int threads = 1;                  ///< of each rank
  int repeat = 5;                   ///< repetitions, of which the best one counts
  bool small = false;               ///< tiny shapes: whether everything runs, not how fast
  std::filesystem::path directory;  ///< where files are written
};

/// What a measurement is compared with.
enum class Bound { fp32, bf16, memory, files };

/// What a rank does, with all its threads, to find a peak.
struct Load {
  double work = 0;  ///< floating-point operations or bytes
  std::function<void()> body;
};
struct Probe {
  std::string name;
  std::function<Load(const Options&)> make;
};

/// What is timed and how its result is verified.
struct Trial {
  double work = 0;  ///< floating-point operations, or bytes, of all ranks in one of `count` pieces
  Bound bound = Bound::fp32;
  Index count = 1;                   ///< equal pieces that `body` does
  std::function<void()> reset = {};  ///< before every repetition, not timed
  std::function<void()> body;
  std::function<void()> without = {};  ///< the body without what is measured: its time is taken off
  std::function<double()> error;       ///< of the last result, by independent slow code
  double allowed = 0;                  ///< the largest error of a right result
};

/// A measurement by name. Inputs are made when it is its turn, and freed after it.
struct Case {
  std::string name;
  std::function<Trial()> make;
};

struct Program {
  std::string about;
  std::function<std::vector<Case>(const Options&)> cases;
  std::map<Bound, std::vector<Probe>> probes = {};  ///< beside those that all programs have
  bool writes_files = false;
};

/// Runs what the command line chooses, on all ranks; the first one prints. Returns the exit code:
/// 0, 1 when a result is wrong, 2 for a wrong command line.
int run(int argc, char** argv, const Program& program, Communicator& ranks);
/// main() of a program with one rank.
int run_alone(int argc, char** argv, const Program& program);

}  // namespace aq::bench
