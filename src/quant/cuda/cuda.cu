/// The GPU of this process.

#include <cuda_runtime.h>

#include <array>
#include <cstdio>
#include <string>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "quant/cuda/accelerator.h"
#include "quant/cuda/gpu.h"

namespace aq::cuda {
namespace {

template <class Body>
__global__ void __launch_bounds__(Body::kThreads, 1) run_kernel(const __grid_constant__ Body body) {
  extern __shared__ __align__(16) unsigned char shared[];
  body.run(GpuBlock(shared));
}

/// Bytes of shared memory that the kernel with most of them has.
template <class... Bodies>
constexpr std::size_t most_shared(const std::variant<Bodies...>*) {
  return std::max({sizeof(typename Bodies::Shared)...});
}
constexpr std::size_t kMostShared = most_shared(static_cast<const Kernel*>(nullptr));

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation)
    throw Error(ErrorKind::internal, "GPU", what, "the card has no memory left",
                "use a card with more, or --device cpu");
  throw Error(ErrorKind::internal, "GPU", what, cudaGetErrorString(status),
              "look at the kernel's log (dmesg: NVRM) and at nvidia-smi; --device cpu runs without "
              "the GPU");
}

class GpuAccelerator final : public Accelerator {
 public:
  explicit GpuAccelerator(int number) : number_(number) {
    use();
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    // What is given back is used again without a call of the driver.
    cudaMemPool_t pool{};
    check(cudaDeviceGetDefaultMemPool(&pool, number), "cudaDeviceGetDefaultMemPool");
    std::uint64_t keep = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
          "cudaMemPoolSetAttribute");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties");
    name_ = str("GPU of compute capability ", properties.major, ".", properties.minor);
  }

  std::string name() const override { return name_; }
  /// Eight fill a card with the experts of today's models, and their factors and sums fit it.
  Index tasks_at_once() const override { return 8; }

  void* take(std::size_t bytes) override {
    void* memory = nullptr;
    use();
    if (bytes > 0) check(cudaMallocAsync(&memory, bytes, stream_), "cudaMallocAsync");
    return memory;
  }
  void give(void* memory, std::size_t) noexcept override { cudaFreeAsync(memory, stream_); }

  void* take_shared(const void* from, std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, bytes), "cudaMallocManaged");
    check(cudaMemcpyAsync(memory, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return memory;
  }
  void give_shared(void* memory, std::size_t) noexcept override {
    cudaStreamSynchronize(stream_);
    cudaFree(memory);
  }

  void clear(void* memory, std::size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, stream_), "cudaMemsetAsync");
  }

  void upload(void* to, std::size_t pitch, const void* from, std::size_t from_pitch,
              std::size_t width, Index rows) override {
    if (width == 0 || rows == 0) return;
    if (rows == 1)  // rows of a 2D copy are less than 2 GiB apart
      check(cudaMemcpyAsync(to, from, width, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    else
      check(cudaMemcpy2DAsync(to, pitch, from, from_pitch, width, static_cast<std::size_t>(rows),
                              cudaMemcpyHostToDevice, stream_),
            "cudaMemcpy2DAsync");
    // Pageable memory has been read when the call returns; pinned memory may be changed only then.
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  void download(void* to, const void* from, std::size_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  void launch(const Kernel& kernel, Grid2 grid) override {
    use();
    std::visit([&](const auto& body) { run(body, grid); }, kernel);
  }

 private:
  template <class Body>
  void run(const Body& body, Grid2 grid) {
    constexpr std::size_t kShared = sizeof(typename Body::Shared);
    if (grid.x == 0 || grid.y == 0) return;
    static const cudaError_t prepared = cudaFuncSetAttribute(
        run_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kShared));
    check(prepared, "cudaFuncSetAttribute");
    run_kernel<<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)), Body::kThreads,
                 kShared, stream_>>>(body);
    check(cudaGetLastError(), "kernel launch");
  }

  /// A thread begins with the first GPU of the machine.
  void use() const { check(cudaSetDevice(number_), "cudaSetDevice"); }

  int number_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

Gpus find_gpus() {
  Gpus found;
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    found.reason = cudaGetErrorString(status);
    return found;
  }
  for (int number = 0; number < count; ++number) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties");
    if (properties.sharedMemPerBlockOptin < kMostShared) {
      found.reason = str(properties.name, " has ", properties.sharedMemPerBlockOptin,
                         " bytes of shared memory for a block, and ", kMostShared, " are needed");
      continue;
    }
    found.numbers.push_back(number);
    std::string id;
    for (const char byte : properties.uuid.bytes) {
      std::array<char, 3> digits{};
      std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned char>(byte));
      id += digits.data();
    }
    found.ids.push_back(id);
  }
  return found;
}

Accelerator& gpu_accelerator(int number) {
  static GpuAccelerator device(number);
  return device;
}

}  // namespace aq::cuda
