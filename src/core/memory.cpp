#include "aq/core/memory.h"

#include <chrono>
#include <fstream>
#include <string>

namespace aq {
namespace {

/// Value in bytes of the line "key:   123 kB" of a file under /proc; 0 when absent.
Index proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word)
    if (word == key) {
      Index kilobytes = 0;
      file >> kilobytes;
      return kilobytes * 1024;
    }
  return 0;
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

Index available_bytes() {
  const Index machine = proc_value("/proc/meminfo", "MemAvailable:");
  const Index limit = group_value("/sys/fs/cgroup/memory.max");
  if (limit == 0) return machine;
  const Index group = limit - group_value("/sys/fs/cgroup/memory.current");
  return group < machine ? group : machine;
}

MemoryWatch::MemoryWatch() : start_(resident_bytes()), peak_(start_) {
  sampler_ = std::thread([this] {
    while (!done_) {
      const Index now = resident_bytes();
      if (now > peak_) peak_ = now;
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

}  // namespace aq
