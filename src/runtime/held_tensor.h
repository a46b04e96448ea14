#pragma once
/// What a Tensor holds. Only this module sees LibTorch's headers.

#include <ATen/core/Tensor.h>

#include "aq/runtime/tensor.h"

namespace aq::runtime {

struct Tensor::Held {
  at::Tensor tensor;
};

}  // namespace aq::runtime
