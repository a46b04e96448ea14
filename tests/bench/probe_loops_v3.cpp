#define AQ_TILE_NAMESPACE probe_v3
#define AQ_TILE_NAME "x86-64-v3"
#include "bench/probe_loops.inl"
