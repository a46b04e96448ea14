#pragma once
/// Factors on a device.

#include "quant/cuda/accelerator.h"
#include "quant/target.h"

namespace aq::cuda {

/// See FactorView.
struct DeviceFactor : FactorData {
  Index stride = 0;
  DeviceArray<float> lower;
  DevicePairs upper, h;
  DeviceArray<float> diagonal;
  DeviceArray<std::int32_t> order;

  FactorView view() const {
    return {lower.data(), upper.view(), h.view(), diagonal.data(), order.data()};
  }
};

/// @pre the factor is usable and was made on a device
inline const DeviceFactor& device_factor(const Factor& factor) {
  return static_cast<const DeviceFactor&>(*factor.data);
}

/// See Solver::factorize.
void factorize(Accelerator& device, std::span<FactorTask> tasks, const GptqSettings& settings);

/// U from L, which is U with rows and columns reversed.
WholeFactor whole_factor(const Factor& factor);

}  // namespace aq::cuda
