/// Everything that is compiled once an instruction set.

#include "quant/cpu/cholesky.h"
#include "quant/cpu/strips.h"
#include "quant/cpu/tile_kernel.h"
#include "quant/cpu/vector_rows.inl"
// The order matters: each builds on the ones above it.
// clang-format off
#include "quant/cpu/tile.inl"
#include "quant/cpu/fit.inl"
#include "quant/cpu/refine.inl"
#include "quant/cpu/coupled.inl"
#include "quant/cpu/gptq.inl"
#include "quant/cpu/cholesky.inl"
#include "quant/cpu/hessian.inl"
// clang-format on

namespace aq::AQ_TILE_NAMESPACE {

const TileKernel kernel = {AQ_TILE_NAME, kLanes,          workspace_floats, solve,
                           norms,        factor_diagonal, factor_below,     add_products};

}  // namespace aq::AQ_TILE_NAMESPACE
