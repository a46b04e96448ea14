/// The GPU of this process.

#include <cuda_runtime.h>

#include <new>
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

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw Error(ErrorKind::internal, "GPU", what, cudaGetErrorString(status),
              "look at the kernel's log (dmesg: NVRM) and at nvidia-smi; --device cpu runs without "
              "the GPU");
}

class GpuAccelerator final : public Accelerator {
 public:
  explicit GpuAccelerator(int number) {
    check(cudaSetDevice(number), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    // What is given back is used again without a call of the driver.
    cudaMemPool_t pool{};
    check(cudaDeviceGetDefaultMemPool(&pool, number), "cudaDeviceGetDefaultMemPool");
    std::uint64_t keep = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
          "cudaMemPoolSetAttribute");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties");
    name_ = str(properties.name, ", compute capability ", properties.major, ".", properties.minor);
  }

  std::string name() const override { return name_; }

  void* take(std::size_t bytes) override {
    void* memory = nullptr;
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

  std::string name_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

GpuCount count_gpus() {
  GpuCount found;
  const cudaError_t status = cudaGetDeviceCount(&found.count);
  if (status == cudaSuccess) return found;
  found.count = 0;
  found.reason = cudaGetErrorString(status);
  return found;
}

Accelerator& gpu_accelerator(int number) {
  static GpuAccelerator device(number);
  return device;
}

}  // namespace aq::cuda
