#include "aq/comm/watchdog.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "aq/comm/heartbeat.h"
#include "aq/core/error.h"
#include "aq/core/host.h"
#include "aq/core/log.h"
#include "aq/core/memory.h"
#include "aq/core/text.h"
#include "comm/activity.h"

namespace aq {
namespace {

constexpr int kExitCode = static_cast<int>(ErrorKind::internal);
/// Files that a rank reads in one round while somebody computes: 1,024 ranks that wait for one
/// must not become a million opened files.
constexpr int kNeighbours = 63;

/// What this rank knows of another one.
struct Seen {
  std::optional<Heartbeat> last;
  double silent = 0;  ///< seconds during which the sign of life did not change
};

}  // namespace

class StallWatch::Thread {
 public:
  Thread(double timeout, int rank, int size, double alone)
      : timeout_(timeout),
        alone_(std::max(timeout, alone)),
        interval_(std::clamp(timeout / 10, 0.05, 10.0)),
        rank_(rank),
        others_(static_cast<std::size_t>(size)),
        thread_([this] { run(); }) {}

  ~Thread() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_all();
    thread_.join();
    std::error_code ignored;
    if (directory_.empty()) return;
    std::filesystem::remove(heartbeat_file(directory_, rank_), ignored);
    std::filesystem::remove(directory_, ignored);  // fails while other ranks have files there
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  void beat_in(const std::filesystem::path& directory) {
    std::error_code ignored;
    std::filesystem::create_directories(directory, ignored);
    {
      const std::lock_guard lock(mutex_);
      // At once, so that a rank that ends in the next moment is known by its host.
      write_heartbeat(heartbeat_file(directory, rank_), sign_of_life({.place = "start"}));
      directory_ = directory;
      asked_ = true;
    }
    wake_.notify_all();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void run() {
    Clock::time_point before = Clock::now();
    std::unique_lock lock(mutex_);
    while (!ended_) {
      wake_.wait_for(lock, std::chrono::duration<double>(interval_),
                     [this] { return ended_ || asked_; });
      if (ended_) return;
      asked_ = false;
      const std::filesystem::path directory = directory_;
      lock.unlock();
      const Clock::time_point now = Clock::now();
      // A process that was suspended, or could not reach the files, does not count that time.
      const double elapsed = std::chrono::duration<double>(now - before).count();
      tick(directory, std::min(elapsed, 2 * interval_));
      before = now;
      lock.lock();
    }
  }

  void tick(const std::filesystem::path& directory, double elapsed) {
    const Activity activity = current_activity();
    const bool same = activity.waiting && activity.steps == steps_;
    waited_ = same ? waited_ + elapsed : 0;
    steps_ = activity.steps;
    if (directory.empty()) {
      if (waited_ >= alone_)
        give_up(activity, {}, "a rank is gone or hangs, or the network between them is broken");
      return;
    }
    write_heartbeat(heartbeat_file(directory, rank_), sign_of_life(activity));
    if (waited_ < timeout_ / 2) {
      for (Seen& other : others_) other = {};
      warned_ = false;
      return;
    }
    const std::optional<int> computing = look_at_others(directory, elapsed);
    if (waited_ < timeout_) return;
    const std::vector<int> silent = silent_ranks();
    if (!silent.empty() || !computing) give_up(activity, silent, describe_others(silent));
    tell_of_long_wait(activity, *computing);
  }

  Heartbeat sign_of_life(const Activity& activity) {
    const double age = std::chrono::duration<double>(Clock::now() - started_).count();
    return {.beat = ++beat_,
            .waiting = activity.waiting,
            .waited = waited_,
            .memory = resident_bytes(),
            .busy = age > 0 ? std::clamp(1 - activity.waited / age, 0.0, 1.0) : 1,
            .host = host_name(),
            .activity = activity.text()};
  }

  /// A rank that computes, if any does.
  std::optional<int> look_at_others(const std::filesystem::path& directory, double elapsed) {
    const auto size = static_cast<int>(others_.size());
    std::optional<int> computing;
    if (last_computing_ && look_at(directory, *last_computing_, elapsed))
      computing = last_computing_;
    for (int step = 1; step < size && (step <= kNeighbours || !computing); ++step) {
      const int other = (rank_ + step) % size;
      if (other != last_computing_ && look_at(directory, other, elapsed) && !computing)
        computing = other;
    }
    last_computing_ = computing;
    return computing;
  }

  /// Whether the other rank computes.
  bool look_at(const std::filesystem::path& directory, int other, double elapsed) {
    Seen& seen = others_[other];
    const std::optional<Heartbeat> now = read_heartbeat(heartbeat_file(directory, other));
    if (now && (!seen.last || seen.last->beat != now->beat))
      seen = {now, 0};
    else
      seen.silent += elapsed;
    return !is_silent(seen) &&
           !(seen.last && seen.last->waiting && seen.last->waited >= timeout_ / 2 - 2 * interval_);
  }

  /// Looked at for half the timeout, less a round or two.
  bool is_silent(const Seen& seen) const { return seen.silent >= 0.3 * timeout_; }

  std::vector<int> silent_ranks() const {
    std::vector<int> silent;
    for (std::size_t r = 0; r < others_.size(); ++r)
      if (static_cast<int>(r) != rank_ && is_silent(others_[r]))
        silent.push_back(static_cast<int>(r));
    return silent;
  }

  std::string describe(int rank) const {
    const Seen& seen = others_[rank];
    std::string text = str("rank ", rank);
    if (!seen.last) return text + " never gave a sign of life";
    text += str(" on ", seen.last->host);
    if (is_silent(seen))
      text += str(" gives no sign of life, last in '", seen.last->activity, "'");
    else
      text += str(" waits in '", seen.last->activity, "'");
    return text;
  }

  /// One rank says it, the next one after the rank that computes, and once a wait.
  void tell_of_long_wait(const Activity& activity, int computing) {
    if (warned_ || (computing + 1) % static_cast<int>(others_.size()) != rank_) return;
    warned_ = true;
    const Seen& seen = others_[computing];
    log_warning(str("rank ", rank_, " has waited ", duration_text(waited_), " in '",
                    activity.text(), "'; rank ", computing, " still computes",
                    seen.last ? str(": ", seen.last->activity) : ""));
  }

  /// What is known of the ranks that are silent, or of all others when none is.
  std::string describe_others(const std::vector<int>& silent) const {
    constexpr std::size_t kNamed = 8;
    std::vector<int> named = silent;
    if (named.empty())
      for (int r = 0; r < static_cast<int>(others_.size()); ++r)
        if (r != rank_) named.push_back(r);
    std::string who;
    for (std::size_t i = 0; i < std::min(named.size(), kNamed); ++i)
      who += (i > 0 ? "; " : "") + describe(named[i]);
    if (named.size() > kNamed) who += str("; and ", named.size() - kNamed, " more");
    return (silent.empty() ? "no rank computes, all wait for messages that do not come: " : "") +
           who;
  }

  /// `known`: of the other ranks.
  [[noreturn]] void give_up(const Activity& activity, const std::vector<int>& silent,
                            const std::string& known) {
    const std::string reason = str("rank ", rank_, " on ", host_name(), " has waited ",
                                   duration_text(waited_), ": ", known);
    // The first rank that is well speaks for all; the others wait a moment for the end.
    if (rank_ != (silent.empty() || silent.front() != 0 ? 0 : 1))
      std::this_thread::sleep_for(std::chrono::seconds(2));
    const Error error(ErrorKind::internal, "wait for other ranks", activity.text(), reason,
                      "start the same command again; a run goes on from its last layer");
    log_error(error.what());
    end_launcher_if_it_hangs();
    end_job(kExitCode);
  }

  const double timeout_, alone_, interval_;
  const int rank_;
  std::vector<Seen> others_;
  std::int64_t steps_ = -1, beat_ = 0;
  double waited_ = 0;
  bool warned_ = false;
  std::optional<int> last_computing_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::filesystem::path directory_;
  bool ended_ = false, asked_ = false;
  const Clock::time_point started_ = Clock::now();
  std::thread thread_;  // last: it uses all others
};

StallWatch::StallWatch(double timeout, int rank, int size, double alone) {
  if (timeout > 0) thread_ = std::make_unique<Thread>(timeout, rank, size, alone);
}

StallWatch::~StallWatch() = default;

void StallWatch::beat_in(const std::filesystem::path& directory) {
  if (thread_) thread_->beat_in(directory);
}

}  // namespace aq
