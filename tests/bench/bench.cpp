#include "bench/bench.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <limits>
#include <thread>

#include "aq/core/json.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/quant/solver.h"
#include "bench/probes.h"

namespace aq::bench {
namespace {

/// The best of several repetitions.
struct Time {
  double seconds = std::numeric_limits<double>::infinity();
  double core_seconds = std::numeric_limits<double>::infinity();  ///< of all threads and ranks
};

/// Operations or bytes a second, and a second of processor time, which others disturb less.
struct Rate {
  double wall = 0, core = 0;
};
Rate rate_of(double work, const Time& time) {
  return {work / time.seconds, work / time.core_seconds};
}

/// Processor time of this process.
double core_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Processor time of the machine: what it had, in how much of it it worked, and that of this
/// process.
struct MachineTime {
  double all = 0, busy = 0, own = core_seconds();
};
MachineTime machine_time() {
  std::ifstream file("/proc/stat");
  std::string word;
  file >> word;  // then user, nice, system, idle, iowait, irq, softirq, steal, in ticks
  MachineTime time;
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  for (int field = 0; field < 8; ++field) {
    double ticks = 0;
    file >> ticks;
    time.all += ticks * tick;
    if (field != 3 && field != 4) time.busy += ticks * tick;
  }
  return time;
}

std::string_view bound_name(Bound bound) {
  static constexpr std::string_view names[] = {"fp32", "bf16", "memory", "files"};
  return names[static_cast<int>(bound)];
}

const char* unit_name(Bound bound) {
  return bound == Bound::fp32 || bound == Bound::bf16 ? "GFLOP/s" : "GB/s";
}

constexpr int kProbeRepeat = 5;  ///< at least

/// What was asked for.
struct Choice {
  Options options;
  std::vector<std::string> only;
  bool list = false;
};

void add_options(CLI::App& app, Choice& choice, bool writes_files) {
  Options& options = choice.options;
  app.add_option("--threads", options.threads, "threads of each rank")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--repeat", options.repeat, "repetitions of a measurement; the best one counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--only", choice.only, "measurements with such a name (*, ? and [..]); repeatable")
      ->allow_extra_args(false);
  app.add_flag("--list", choice.list, "print the names and end");
  app.add_flag("--small", options.small, "tiny shapes: whether everything runs, not how fast");
  if (writes_files)
    app.add_option("--directory", options.directory, "where files are written, and removed again")
        ->capture_default_str()
        ->check(CLI::ExistingDirectory);
}

/// Six digits, which is more than a measurement has.
double rounded(double value) {
  return std::stod(str(value));
}

/// The measurements of one program on all ranks.
class Runner {
 public:
  Runner(const Options& options, std::map<Bound, std::vector<Probe>> probes, Communicator& ranks)
      : options_(options), probes_(std::move(probes)), ranks_(ranks) {}

  /// True when the result is right.
  bool measure(const Case& entry) {
    Trial trial = entry.make();
    const Time rest =
        trial.without ? best_of(options_.repeat, trial.reset, trial.without) : Time{0, 0};
    Time time = best_of(options_.repeat, trial.reset, trial.body);
    // A difference that is lost in the noise counts as the least that can be told.
    time = {std::max(time.seconds - rest.seconds, time.seconds / 100),
            std::max(time.core_seconds - rest.core_seconds, time.core_seconds / 100)};
    const auto count = static_cast<double>(trial.count);
    time = {time.seconds / count, time.core_seconds / count};
    double error = 0;
    for (const auto& of_rank : all_gather_values(ranks_, std::vector<double>{trial.error()}))
      error = std::isnan(of_rank[0]) ? of_rank[0] : std::max(error, of_rank[0]);
    const bool verified = error <= trial.allowed;
    // Above the peak: others disturbed the probe.
    const Rate rate = rate_of(trial.work, time);
    const Rate peak = peak_of(trial.bound, rate);
    if (ranks_.is_first())
      print(entry.name, trial, time, {rate.wall / peak.wall, rate.core / peak.core}, error,
            verified);
    return verified;
  }

  /// Says how much of the processors' time others had since `start`.
  void print_others(const MachineTime& start) {
    std::int64_t own = std::llround((core_seconds() - start.own) * 1e6);
    ranks_.all_reduce_sum({&own, 1});
    const MachineTime now = machine_time();
    if (!ranks_.is_first() || now.all <= start.all) return;
    const double others = now.busy - start.busy - static_cast<double>(own) * 1e-6;
    std::printf("others used %.1f %% of the processors\n",
                100 * std::max(others, 0.0) / (now.all - start.all));
  }

 private:
  Time best_of(int repeat, const std::function<void()>& reset, const std::function<void()>& body) {
    Time best;
    for (int i = 0; i < repeat; ++i) {
      if (reset) reset();
      ranks_.barrier();
      const double start = core_seconds();
      const Stopwatch watch;
      body();
      std::int64_t wall = std::llround(watch.seconds() * 1e9);
      std::int64_t core = std::llround((core_seconds() - start) * 1e9);
      ranks_.all_reduce_max({&wall, 1});
      ranks_.all_reduce_sum({&core, 1});
      best.seconds = std::min(best.seconds, static_cast<double>(wall) * 1e-9);
      best.core_seconds = std::min(best.core_seconds, static_cast<double>(core) * 1e-9);
    }
    return best;
  }

  /// The best rates that the probes have found so far, of all ranks together; they run again when
  /// those are less than `rate`.
  Rate peak_of(Bound bound, const Rate& rate) {
    Rate& best = peaks_[bound];
    if (best.wall >= rate.wall && best.core >= rate.core) return best;
    for (const Probe& probe : probes_[bound]) {
      const Load load = probe.make(options_);
      std::int64_t work = std::llround(load.work);
      ranks_.all_reduce_sum({&work, 1});
      const Time time = best_of(std::max(options_.repeat, kProbeRepeat), {}, load.body);
      const Rate found = rate_of(static_cast<double>(work), time);
      if (ranks_.is_first())
        std::printf("peak of %s: %.1f %s (%s)\n", std::string(bound_name(bound)).c_str(),
                    found.wall * 1e-9, unit_name(bound), probe.name.c_str());
      best = {std::max(best.wall, found.wall), std::max(best.core, found.core)};
    }
    return best;
  }

  /// @param share  of the peaks
  void print(const std::string& name, const Trial& trial, const Time& time, const Rate& share,
             double error, bool verified) {
    const double rate = trial.work / time.seconds * 1e-9;
    const std::string bound(bound_name(trial.bound));
    const char* unit = unit_name(trial.bound);
    std::printf(
        "%-36s %9.3f ms %7.1f %-7s %5.1f %% of the peak of %s (by core time %.1f ms, %.1f %%)%s\n",
        name.c_str(), time.seconds * 1e3, rate, unit, 100 * share.wall, bound.c_str(),
        time.core_seconds * 1e3, 100 * share.core, verified ? "" : "  WRONG RESULT");
    const OrderedJson line = {{"bench", name},
                              {"ranks", ranks_.size()},
                              {"threads", options_.threads},
                              {"count", trial.count},
                              {"seconds", rounded(time.seconds)},
                              {"core_seconds", rounded(time.core_seconds)},
                              {"rate", rounded(rate)},
                              {"unit", unit},
                              {"bound", bound},
                              {"peak", rounded(rate / share.wall)},
                              {"share", rounded(share.wall)},
                              {"core_share", rounded(share.core)},
                              {"error", rounded(error)},
                              {"verified", verified}};
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

  const Options& options_;
  std::map<Bound, std::vector<Probe>> probes_;
  std::map<Bound, Rate> peaks_;
  Communicator& ranks_;
};

/// Those whose names were asked for; all of them when none was.
std::vector<Case> chosen(std::vector<Case> cases, const std::vector<std::string>& only) {
  if (only.empty()) return cases;
  std::vector<Case> kept;
  std::vector<std::string_view> names;
  for (const Case& entry : cases) names.push_back(entry.name);
  for (const std::string& pattern : only)
    if (std::ranges::none_of(cases,
                             [&](const Case& c) { return matches_pattern(pattern, c.name); }))
      throw Error(ErrorKind::usage, "--only", pattern,
                  str("no measurement has such a name", did_you_mean(pattern, names)),
                  "--list prints the names");
  for (const Case& entry : cases)
    if (std::ranges::any_of(only, [&](const auto& p) { return matches_pattern(p, entry.name); }))
      kept.push_back(entry);
  return kept;
}

int run_chosen(const Choice& choice, const Program& program, Communicator& ranks) {
  const std::vector<Case> cases = chosen(program.cases(choice.options), choice.only);
  if (choice.list) {
    for (const Case& entry : cases)
      if (ranks.is_first()) std::printf("%s\n", entry.name.c_str());
    return 0;
  }
  set_thread_count(choice.options.threads);
  use_single_threaded_blas();
  auto probes = common_probes();
  for (const auto& [bound, more] : program.probes)
    probes[bound].insert(probes[bound].end(), more.begin(), more.end());
  Runner runner(choice.options, std::move(probes), ranks);
  const MachineTime start = machine_time();
  bool right = true;
  for (const Case& entry : cases) right = runner.measure(entry) && right;
  runner.print_others(start);
  return right ? 0 : 1;
}

}  // namespace

int run(int argc, char** argv, const Program& program, Communicator& ranks) {
  CLI::App app{program.about};
  Choice choice;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  choice.options.threads = std::max(1, cores / ranks.size());
  choice.options.directory = std::filesystem::temp_directory_path();
  add_options(app, choice, program.writes_files);
  app.failure_message(CLI::FailureMessage::simple);
  try {
    app.parse(argc, argv);
    return run_chosen(choice, program, ranks);
  } catch (const CLI::ParseError& error) {
    const int code = ranks.is_first() ? app.exit(error) : error.get_exit_code();
    return code == 0 ? 0 : static_cast<int>(ErrorKind::usage);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
    if (ranks.is_first()) std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}

int run_alone(int argc, char** argv, const Program& program) {
  try {
    return run(argc, argv, program, *make_self_communicator());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace aq::bench
