#include "aq/io/run_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "aq/core/error.h"
#include "aq/core/log.h"
#include "aq/io/file.h"
#include "aq/io/read_error.h"
#include "io/lock_file.h"
#include "io/posix_file.h"

namespace aq {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kOperation = "lock the run directory";

fs::path lock_path(const fs::path& directory) {
  return directory / "run.lock";
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void refuse(const fs::path& directory, const LockText& holder) {
  throw Error(ErrorKind::input, kOperation, directory.string(),
              "another job is at work on it: " + to_string(holder.holder),
              "wait for its end, or choose another --save directory");
}

/// A file of this process alone, with the lock's text; it becomes the lock by link().
class Candidate {
 public:
  Candidate(const fs::path& directory, const LockText& text)
      : path_(directory / str(".run.lock.", text.id)), text_(format_lock(text)) {
    PosixFile file = PosixFile::create(path_);
    file.write(std::as_bytes(std::span(text_)));
    file.sync();
  }
  ~Candidate() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;

  const fs::path& path() const { return path_; }

  /// False when the lock exists. The answer of link() may get lost on NFS: the count of links does
  /// not.
  bool becomes(const fs::path& lock) const {
    if (::link(path_.c_str(), lock.c_str()) == 0) return true;
    const int reason = errno;
    std::error_code error;
    if (fs::hard_link_count(path_, error) == 2) return true;
    if (reason == EEXIST) return false;
    if (reason == EPERM || reason == ENOTSUP || reason == ENOSYS)
      return create_exclusively(lock, text_);  // a file system without hard links
    throw Error(ErrorKind::input, kOperation, lock.string(),
                std::generic_category().message(reason));
  }

 private:
  static bool create_exclusively(const fs::path& lock, const std::string& text) {
    const int descriptor = ::open(lock.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno == EEXIST) return false;
    const bool written =
        descriptor >= 0 && ::pwrite(descriptor, text.data(), text.size(), 0) == std::ssize(text);
    const int reason = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (written) return true;
    throw Error(ErrorKind::input, kOperation, lock.string(),
                std::generic_category().message(reason));
  }

  fs::path path_;
  std::string text_;
};

bool is_same(const std::optional<LockText>& a, const std::optional<LockText>& b) {
  return a.has_value() == b.has_value() && (!a || (a->id == b->id && a->count == b->count));
}

/// As read_lock; also nothing while it cannot be read.
std::optional<LockText> glance_at(const fs::path& lock) noexcept {
  try {
    return read_lock(lock);
  } catch (...) {
    return std::nullopt;
  }
}

enum class Fate { lives, silent, changed };

/// Looks at the lock that `found` was read from for so many seconds: `lives` as soon as its holder
/// counts on, `changed` when the lock is gone or another one's. Clocks and file times say nothing
/// here. Throws a ReadError when it cannot be read at the end.
Fate watch(const fs::path& lock, const std::optional<LockText>& found, double seconds,
           const LockTimes& times) {
  const Clock::time_point start = Clock::now();
  while (true) {
    std::this_thread::sleep_for(std::chrono::duration<double>(times.beat_seconds / 5));
    const bool last = seconds_since(start) >= seconds;
    try {
      // Opened anew each time: on NFS that is when the content is read anew.
      if (!file_exists(lock)) return Fate::changed;
      const std::optional<LockText> now = read_lock(lock);
      if (now && (!found || now->id != found->id)) return Fate::changed;
      if (now && now->count != found->count) return Fate::lives;
    } catch (const ReadError&) {
      if (last) throw;
    }
    if (last) return Fate::silent;
  }
}

Patience patience(const LockTimes& times) {
  return {.pause = times.beat_seconds / 20, .longest = 3.2 * times.beat_seconds};
}

/// Long enough for a sign of life of a holder that is well.
double short_watch(const LockTimes& times) {
  return std::min(3 * times.beat_seconds, times.stale_seconds);
}

/// Puts the candidate in the place of the dead holder's lock. Of many jobs that do this at the same
/// time one gets the claim, a file named after what is replaced; nobody without it touches the
/// lock, and with it the lock goes from one holder to the next in one step. False when another job
/// is at it, or was faster.
bool replace_dead(const fs::path& lock, const Candidate& candidate,
                  const std::optional<LockText>& dead, const LockTimes& times) {
  const fs::path claim =
      lock.parent_path() /
      str(".run.lock.dead.", dead ? str(dead->id, ".", dead->count) : std::string("unknown"));
  std::error_code error;
  if (!candidate.becomes(claim)) {
    const std::optional<LockText> claimant = glance_at(claim);
    const bool left_behind = (claimant && runs_here(*claimant) == false) ||
                             seconds_between(claim, candidate.path()) > 2 * times.stale_seconds;
    if (left_behind) fs::remove(claim, error);
    std::this_thread::sleep_for(std::chrono::duration<double>(times.beat_seconds / 5));
    return false;
  }
  const bool same = fs::exists(lock, error) && is_same(glance_at(lock), dead);
  if (same) fs::rename(candidate.path(), lock, error);
  std::error_code ignored;
  fs::remove(claim, ignored);
  return same && !error;
}

/// Waits until the holder counts on (then it lives) or has had time enough to. Returns why it is
/// taken for dead; nothing when the lock has changed hands or is gone meanwhile.
std::optional<std::string> find_dead(const fs::path& directory, const Candidate& candidate,
                                     const std::optional<LockText>& found, const LockTimes& times) {
  const fs::path lock = lock_path(directory);
  const bool copied = found && is_copied(lock, *found);
  if (found && !copied) {
    const std::optional<bool> runs = runs_here(*found);
    if (runs == true) refuse(directory, *found);
    if (runs == false) return "its process is gone";
  }
  const double age = seconds_between(lock, candidate.path());
  const bool old = copied || age > 2 * times.stale_seconds;
  const double seconds = old ? short_watch(times) : times.stale_seconds;
  if (found)
    log_info(str(directory.string(), ": held by ", to_string(found->holder), "; waiting up to ",
                 seconds, " s for a sign of life"));
  const Fate fate = watch(lock, found, seconds, times);
  if (fate == Fate::lives) refuse(directory, *found);
  if (fate == Fate::changed) return std::nullopt;
  if (copied) return str("it is a copy, made with the directory, of that in ", found->directory);
  return str("it gave no sign of life for ", times.stale_seconds, " s");
}

}  // namespace

/// The lock in our hands, and the thread that counts.
class RunLock::Held {
 public:
  Held(const fs::path& directory, std::function<void(const std::string&)> on_lost, LockTimes times)
      : path_(lock_path(directory)),
        on_lost_(std::move(on_lost)),
        times_(times),
        text_(own_lock_text(directory)) {
    acquire(directory);
    thread_ = std::thread([this] { beat(); });
  }
  ~Held() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_all();
    thread_.join();
    std::error_code ignored;
    if (is_mine()) fs::remove(path_, ignored);
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  void acquire(const fs::path& directory) {
    const Candidate candidate(directory, text_);
    while (!candidate.becomes(path_)) {
      const std::optional<LockText> found =
          read_patiently([&] { return read_lock(path_); }, patience(times_));
      const std::optional<std::string> dead = find_dead(directory, candidate, found, times_);
      if (!dead || !replace_dead(path_, candidate, found, times_)) continue;
      log_warning(str(directory.string(), ": the lock of ",
                      found ? to_string(found->holder) : "an unknown job",
                      " is taken over: ", *dead));
      return;
    }
  }

  bool is_mine() const {
    const std::optional<LockText> now = glance_at(path_);
    return now && now->id == text_.id;
  }

  void beat() {
    std::unique_lock lock(mutex_);
    const std::chrono::duration<double> pause(times_.beat_seconds);
    while (!wake_.wait_for(lock, pause, [this] { return ended_; })) {
      lock.unlock();
      const std::optional<LockText> now = glance_at(path_);
      std::error_code error;
      if (now && now->id != text_.id) return on_lost_("taken over by " + to_string(now->holder));
      if (!now && !fs::exists(path_, error) && !error) return on_lost_("run.lock was removed");
      ++text_.count;
      rewrite();
      lock.lock();
    }
  }

  /// In place: a file that was renamed away meanwhile is changed where it is now. What fails is
  /// tried again at the next beat.
  void rewrite() const {
    const int descriptor = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) return;
    const std::string line = format_lock(text_);
    if (::pwrite(descriptor, line.data(), line.size(), 0) > 0) ::fsync(descriptor);
    ::close(descriptor);
  }

  fs::path path_;
  std::function<void(const std::string&)> on_lost_;
  LockTimes times_;
  LockText text_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::thread thread_;
};

RunLock::RunLock(const fs::path& directory, std::function<void(const std::string&)> on_lost,
                 LockTimes times)
    : held_(std::make_unique<Held>(directory, std::move(on_lost), times)) {}

RunLock::~RunLock() = default;

std::unique_ptr<RunLock> lock_run(const fs::path& directory, std::function<void(int)> end) {
  return std::make_unique<RunLock>(
      directory, [directory, end = std::move(end)](const std::string& reason) {
        const Error error(ErrorKind::internal, "keep the lock", directory.string(), reason,
                          "two jobs must not work on one run directory");
        log_error(error.what());
        end(error.exit_code());
      });
}

std::optional<LockState> look_at_lock(const fs::path& directory, LockTimes times) {
  const fs::path path = lock_path(directory);
  if (!file_exists(path)) return std::nullopt;
  const std::optional<LockText> text =
      read_patiently([&] { return read_lock(path); }, patience(times));
  LockState state;
  std::optional<bool> runs;
  if (text) {
    state = {text->holder, false, text->directory, is_copied(path, *text)};
    if (!state.copied) runs = runs_here(*text);
  }
  if (!runs) {
    const double silent = state.copied ? times.stale_seconds : age_of_file(path).value_or(0);
    const double seconds = std::max(times.stale_seconds - silent, short_watch(times));
    const Fate fate = watch(path, text, std::min(seconds, times.stale_seconds), times);
    if (fate == Fate::changed) return look_at_lock(directory, times);
    runs = fate == Fate::lives;
  }
  state.alive = *runs;
  return state;
}

std::optional<double> age_of_file(const fs::path& file) {
  try {
    const Candidate now(file.parent_path(), own_lock_text(file.parent_path()));
    return seconds_between(file, now.path());
  } catch (const Error&) {  // nothing can be written there
    return std::nullopt;
  }
}

}  // namespace aq
