#pragma once
/// Sums of output factors (aq/quant/output_factor.h) of the linears that make q, k and v.

#include "aq/forward/calibration.h"
#include "aq/forward/decoder_layer.h"

namespace aq {

/// Where the outputs of a linear stand among those of its task.
struct OutputPlace {
  Index task = -1;  ///< -1: its factor is not wanted
  Index first_row = 0;
};

/// Σ g gᵀ over this rank's tokens, g the gradients of c · (what attention adds to x) by the outputs
/// of qkv_linears(layer.spec). With signs c drawn for each sequence, position and channel, whose
/// covariance is the identity, that is the expectation of how an error there changes the residual
/// stream (Hutchinson 1990), by rows as add_outputs has it.
/// @param places  of each of qkv_linears()
/// @param rows    of each task: `[rows, kRowTile]`
/// @return of each task
std::vector<LanePartials> sum_outputs(const DecoderLayer& layer, const Tensor& x,
                                      const Latents& latents, std::span<const OutputPlace> places,
                                      std::span<const Index> rows);

}  // namespace aq
