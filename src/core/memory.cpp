#include "aq/core/memory.h"

#include <malloc.h>

#include <chrono>
#include <fstream>
#include <string>

namespace aq {
namespace {

/// The number behind `key` in a file under /proc; 0 when absent.
Index proc_number(const char* path, const std::string& key) {
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

/// Content of a control group file as a number; 0 when absent or "max".
Index group_value(const char* path) {
  std::ifstream file(path);
  Index value = 0;
  return file >> value ? value : 0;
}

}  // namespace

Index resident_bytes() {
  return proc_value("/proc/self/status", "RssAnon:") + proc_value("/proc/self/status", "RssShmem:");
}

FileBytes file_bytes() {
  return {proc_number("/proc/self/io", "rchar:"), proc_number("/proc/self/io", "wchar:")};
}

Index available_bytes() {
  const Index machine = proc_value("/proc/meminfo", "MemAvailable:");
  const Index limit = group_value("/sys/fs/cgroup/memory.max");
  if (limit == 0) return machine;
  const Index group = limit - group_value("/sys/fs/cgroup/memory.current");
  return group < machine ? group : machine;
}

void return_freed_memory() {
  constexpr int kBlock = 1 << 17;
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

Index MemoryWatch::peak_above_start() const {
  return peak_ - start_;
}

Index MemoryWatch::take_peak() {
  sample();
  return recent_.exchange(start_) - start_;
}

}  // namespace aq
