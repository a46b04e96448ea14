#pragma once

#include "aq/core/dtype.h"

namespace aq {

/// Floating point operations a second of one core in linears of 512 tokens and 1024 x 1024 weights,
/// with every thread at work: of float32, or of bfloat16 (0 where the processor has no instructions
/// for it).
double measure_forward(DType dtype);

}  // namespace aq
