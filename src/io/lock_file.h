#pragma once
/// The text of run.lock and what this machine knows about the process that it names.

#include <filesystem>
#include <optional>
#include <string>

#include "aq/io/run_lock.h"

namespace aq {

struct LockText {
  LockHolder holder;
  std::string machine;  ///< host name, boot and process namespace: where process numbers are valid
  Index process_start = 0;  ///< clock ticks since the boot: numbers are used again
  std::string id;           ///< random: two locks of one process differ too
  Index count = 0;          ///< goes up while the holder lives
  std::string directory;    ///< where the holder made the lock; empty where that is not known
};

/// For a lock of this process in the directory.
LockText own_lock_text(const std::filesystem::path& directory);
/// Always the same length, so that it can be rewritten in place.
std::string format_lock(const LockText& text);
/// Nothing when there is none, or it is no such text (or half of one). Throws a ReadError when it
/// cannot be read: its holder may well live.
std::optional<LockText> read_lock(const std::filesystem::path& file);
/// Whether `file`, which holds `text`, came here by copying a directory while its holder was at
/// work: the holder's own lock is seen where it was made, and is another file.
bool is_copied(const std::filesystem::path& file, const LockText& text);
/// Whether the process runs; nothing when it is of another machine.
std::optional<bool> runs_here(const LockText& text);
/// Seconds between the last changes of two files of one file system, the second being the later.
double seconds_between(const std::filesystem::path& first, const std::filesystem::path& second);

}  // namespace aq
