/// The kernels for any processor of the architecture.
#define AQ_TILE_NAMESPACE tile_baseline
#define AQ_TILE_NAME "baseline"
#include "quant/cpu/kernels.inl"
