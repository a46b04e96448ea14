#include "aq/core/memory.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>

#include "aq/core/error.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

/// The number behind `key` in a file of the kernel's; 0 when absent.
Index proc_number(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  Index value = 0;
  while (file >> word)
    if (word == key) {
      file >> value;
      break;
    }
  return value;
}

/// Value in bytes of the line "key:   123 kB" of a file under /proc; 0 when absent.
Index proc_value(const char* path, const std::string& key) {
  return proc_number(path, key) * 1024;
}

/// The names that the two versions of control groups have for the same things.
struct GroupFiles {
  const char* limit;
  const char* used;
  const char* cached;  ///< prefix of the page cache's keys in memory.stat
};
constexpr GroupFiles kGroups1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"};
constexpr GroupFiles kGroups2{"memory.max", "memory.current", ""};

/// Content of a control group file as a number; 0 when absent or "max".
Index group_value(const fs::path& path) {
  std::ifstream file(path);
  Index value = 0;
  return file >> value ? value : 0;
}

/// Its limit less what is in use; files in the page cache give way.
std::optional<Index> left_in_group(const fs::path& group, const GroupFiles& names) {
  const Index limit = group_value(group / names.limit);
  if (limit == 0) return std::nullopt;
  Index used = group_value(group / names.used);
  for (const char* kind : {"inactive_file", "active_file"})
    used -= proc_number(group / "memory.stat", std::string(names.cached) + kind);
  return std::max<Index>(limit - std::max<Index>(used, 0), 1);
}

/// The least of the group and those that it is in, up to the root.
std::optional<Index> left_in_groups(const fs::path& root, const fs::path& inner,
                                    const GroupFiles& names) {
  std::optional<Index> least = left_in_group(root, names);
  fs::path group = root;
  for (const fs::path& part : inner) {
    group /= part;
    const std::optional<Index> left = left_in_group(group, names);
    if (left && (!least || *left < *least)) least = left;
  }
  return least;
}

}  // namespace

Index resident_bytes() {
  return proc_value("/proc/self/status", "RssAnon:") + proc_value("/proc/self/status", "RssShmem:");
}

FileBytes file_bytes() {
  return {proc_number("/proc/self/io", "rchar:"), proc_number("/proc/self/io", "wchar:")};
}

std::optional<Index> control_group_bytes(const fs::path& membership, const fs::path& mount) {
  std::ifstream file(membership);
  std::optional<Index> least;
  // Lines "number:controllers:/path"; no controllers: version 2.
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = str(",", line.substr(first + 1, second - first - 1), ",");
    const fs::path inner = fs::path(line.substr(second + 1)).relative_path();
    std::optional<Index> left;
    if (controllers == ",,") left = left_in_groups(mount, inner, kGroups2);
    if (controllers.find(",memory,") != std::string::npos)
      left = left_in_groups(mount / "memory", inner, kGroups1);
    if (left && (!least || *left < *least)) least = left;
  }
  return least;
}

Index available_bytes() {
  const Index machine = proc_value("/proc/meminfo", "MemAvailable:");
  return std::min(machine,
                  control_group_bytes("/proc/self/cgroup", "/sys/fs/cgroup").value_or(machine));
}

void return_freed_memory() {
  constexpr int kBlock = int{kMappedBlockBytes};
  mallopt(M_MMAP_THRESHOLD, kBlock);
  mallopt(M_TRIM_THRESHOLD, 2 * kBlock);
}

namespace {

void raise_to(std::atomic<Index>& most, Index value) {
  Index seen = most;
  while (value > seen && !most.compare_exchange_weak(seen, value)) {
  }
}

}  // namespace

void MemoryWatch::sample() {
  const Index now = resident_bytes();
  raise_to(peak_, now);
  raise_to(recent_, now);
}

MemoryWatch::MemoryWatch() : start_(resident_bytes()), peak_(start_), recent_(start_) {
  sampler_ = std::thread([this] {
    while (!done_) {
      sample();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
}

MemoryWatch::~MemoryWatch() {
  done_ = true;
  sampler_.join();
}

Index MemoryWatch::above_start() const {
  return resident_bytes() - start_;
}

Index MemoryWatch::peak_above_start() const {
  return peak_ - start_;
}

Index MemoryWatch::take_peak() {
  sample();
  return recent_.exchange(start_) - start_;
}

}  // namespace aq
