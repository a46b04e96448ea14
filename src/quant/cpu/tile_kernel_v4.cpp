/// The kernels for AVX-512.
#define AQ_TILE_NAMESPACE tile_v4
#define AQ_TILE_NAME "x86-64-v4"
#include "quant/cpu/kernels.inl"
