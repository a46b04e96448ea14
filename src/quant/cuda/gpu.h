#pragma once
/// GPUs of this machine, where support for them was built.

#include <string>

#include "quant/cuda/accelerator.h"

namespace aq::cuda {

struct GpuCount {
  int count = 0;
  std::string reason;  ///< why there is none, in the words of the CUDA runtime
};
GpuCount count_gpus();

/// The GPU of this process: the one of the first call.
Accelerator& gpu_accelerator(int number);

}  // namespace aq::cuda
