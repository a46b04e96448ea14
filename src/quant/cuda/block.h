#pragma once
/// Kernels are written once. A kernel is a struct of its arguments with
///   static constexpr int kThreads;  struct Shared;
///   template <class Block> void run(const Block& block) const;
/// whose body is a sequence of steps for all threads of a block, with a barrier behind each. On a
/// GPU a thread takes its part of each step; HostBlock runs a step thread by thread, so that
/// bodies, tiles and batches are tested where there is no GPU.

#include <vector>

#include "aq/core/index.h"
#include "aq/formats/element.h"

namespace aq::cuda {

/// Blocks of a launch.
struct Grid2 {
  Index x, y;
};

/// A block on the CPU.
class HostBlock {
 public:
  HostBlock(Index block_x, Index block_y, int threads, void* shared)
      : x(block_x), y(block_y), threads_(threads), shared_(shared) {}

  Index x, y;  ///< which one of the grid

  /// One step: body(thread) for each; what it writes is seen by all afterwards.
  template <class Body>
  void each_thread(const Body& body) const {
    for (int thread = 0; thread < threads_; ++thread) body(thread);
  }
  template <class T>
  T& shared() const {
    return *static_cast<T*>(shared_);
  }
  /// What each thread keeps from one step to the next: registers on a GPU.
  template <class T>
  class Own {
   public:
    explicit Own(const HostBlock& block) : values_(static_cast<std::size_t>(block.threads_)) {}
    T& operator[](int thread) { return values_[static_cast<std::size_t>(thread)]; }

   private:
    std::vector<T> values_;
  };

 private:
  int threads_;
  void* shared_;
};

#ifdef __CUDACC__
/// A block on a GPU.
class GpuBlock {
 public:
  __device__ explicit GpuBlock(void* shared) : x(blockIdx.x), y(blockIdx.y), shared_(shared) {}

  Index x, y;

  template <class Body>
  __device__ __forceinline__ void each_thread(const Body& body) const {
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
  template <class T>
  __device__ T& shared() const {
    return *static_cast<T*>(shared_);
  }
  template <class T>
  class Own {
   public:
    __device__ explicit Own(const GpuBlock&) {}
    __device__ __forceinline__ T& operator[](int) { return value_; }

   private:
    T value_;
  };

 private:
  void* shared_;
};
#endif

}  // namespace aq::cuda
