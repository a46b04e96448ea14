#define AQ_TILE_NAMESPACE probe_v4
#define AQ_TILE_NAME "x86-64-v4"
#include "bench/probe_loops.inl"
