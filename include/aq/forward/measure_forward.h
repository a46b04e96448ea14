#pragma once

namespace aq {

/// Floating point operations a second of one core in linears of 512 tokens and 1024 x 1024 weights,
/// with every thread at work.
double measure_forward();

}  // namespace aq
