/// The kernels for AVX2 and FMA.
#define AQ_TILE_NAMESPACE tile_v3
#define AQ_TILE_NAME "x86-64-v3"
#include "quant/cpu/kernels.inl"
