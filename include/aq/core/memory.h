#pragma once
/// Memory and files of this process as the kernel counts them.

#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>

#include "aq/core/index.h"

namespace aq {

/// Anonymous and shared resident memory in bytes (without mapped files); 0 where unknown.
Index resident_bytes();
/// Memory that the machine can still give, in bytes (MemAvailable, and what the limits of the
/// control groups leave where that is less); 0 where unknown.
Index available_bytes();
/// The least that the memory limits of a process's control groups leave, each with all groups that
/// it is in; nothing where there is no limit. `membership` is its /proc/PID/cgroup.
std::optional<Index> control_group_bytes(const std::filesystem::path& membership,
                                         const std::filesystem::path& mount);

/// Bytes that this process has read and written through system calls, whether from the page cache
/// or not; 0 where unknown.
struct FileBytes {
  Index read = 0;
  Index written = 0;
};
FileBytes file_bytes();

/// From now on large blocks go back to the system as soon as they are freed. (The
/// allocator would keep blocks of up to 32 MiB for later; then the peak depends on the order of
/// work and no plan can tell it.)
void return_freed_memory();
/// Blocks from this size on are mapped one by one.
inline constexpr Index kMappedBlockBytes = Index{1} << 17;

/// Samples resident_bytes() in a thread of its own; the peak is above the value at the start.
class MemoryWatch {
 public:
  MemoryWatch();
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  Index above_start() const;  ///< now
  Index peak_above_start() const;
  /// The peak above the start since the last call (or the start).
  Index take_peak();

 private:
  void sample();

  Index start_;
  std::atomic<Index> peak_;
  std::atomic<Index> recent_;  ///< peak since take_peak
  std::atomic<bool> done_{false};
  std::thread sampler_;
};

}  // namespace aq
