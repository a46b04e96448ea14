#pragma once
/// Memory of this process as the kernel counts it.

#include <atomic>
#include <thread>

#include "aq/core/index.h"

namespace aq {

/// Anonymous and shared resident memory in bytes (without mapped files); 0 where unknown.
Index resident_bytes();
/// Memory that the machine can still give, in bytes (MemAvailable, and the limit of the control
/// group where that is lower); 0 where unknown.
Index available_bytes();

/// Samples resident_bytes() in a thread of its own; the peak is above the value at the start.
class MemoryWatch {
 public:
  MemoryWatch();
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  Index peak_above_start() const;

 private:
  Index start_;
  std::atomic<Index> peak_;
  std::atomic<bool> done_{false};
  std::thread sampler_;
};

}  // namespace aq
