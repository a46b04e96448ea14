#pragma once
/// One job at a time on a run directory, also when the jobs run on different machines.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "aq/core/index.h"

namespace aq {

/// Who holds the lock of a run directory, as its file tells.
struct LockHolder {
  std::string host;
  Index process = 0;
  std::string job;      ///< of the batch system; empty without one
  std::string started;  ///< local time, for people
};
/// "process 17 on node3 (job 42, since 2025-01-31 12:00:00)"
std::string to_string(const LockHolder& holder);

struct LockTimes {
  double beat_seconds = 2;    ///< the holder rewrites the file this often
  double stale_seconds = 60;  ///< without a change for so long the holder is taken for dead
};

/// The file `run.lock` in the directory. It appears whole or not at all by link(), which also NFS
/// does atomically, and its holder counts on in it: whoever finds it held looks whether the count
/// goes on. Neither clocks nor host names have to agree between machines.
/// - The holder is alive, or counts: Error{input} that names it.
/// - Its process was on this machine and is gone, it did not count for `stale_seconds`, or the lock
///   is a copy that came with a copied directory: it is taken over with a warning. To find that out
///   the constructor may wait for that long.
/// - It cannot be read, even after some tries: a ReadError, for its holder may live.
/// A holder whose lock was taken (it hung for too long) is told by `on_lost`, on another thread: it
/// must end, for two jobs would write the same files.
class RunLock {
 public:
  RunLock(const std::filesystem::path& directory,
          std::function<void(const std::string& reason)> on_lost, LockTimes times = {});
  ~RunLock();  ///< removes the file
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  class Held;
  std::unique_ptr<Held> held_;
};

/// The lock of a job that must not go on without it: losing it is reported, then `end`, which does
/// not return, is called with the exit code.
std::unique_ptr<RunLock> lock_run(const std::filesystem::path& directory,
                                  std::function<void(int exit_code)> end);

struct LockState {
  LockHolder holder;
  bool alive = false;
  std::string directory;  ///< where the holder made it; empty where that is not known
  bool copied = false;    ///< this directory is a copy of that one, where the lock still is
};
/// Nothing when there is no lock. Where the holder is of another machine this waits for a sign of
/// life: a beat or two when it lives, three beats when its lock is old by the file system's own
/// time (see age_of_file), `stale_seconds` at most. Clocks of hosts play no part in it. Throws a
/// ReadError when it cannot be read.
std::optional<LockState> look_at_lock(const std::filesystem::path& directory, LockTimes times = {});

/// Seconds since the last change of a file, by the clock that gives the files of its directory
/// their times; nothing when no file can be made there.
std::optional<double> age_of_file(const std::filesystem::path& file);

}  // namespace aq
