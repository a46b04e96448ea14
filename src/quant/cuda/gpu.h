#pragma once
/// GPUs that this process sees, where support for them was built.

#include <string>
#include <vector>

#include "quant/cuda/accelerator.h"

namespace aq::cuda {

/// Those that can run the kernels.
struct Gpus {
  std::vector<int> numbers;      ///< as the CUDA runtime counts them
  std::vector<std::string> ids;  ///< of each, unlike that of any other card
  std::string reason;            ///< why there is none, or one is left out
};
Gpus find_gpus();

/// The GPU of this process: the one of the first call.
Accelerator& gpu_accelerator(int number);

}  // namespace aq::cuda
