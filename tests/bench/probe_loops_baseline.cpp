#define AQ_TILE_NAMESPACE probe_baseline
#define AQ_TILE_NAME "baseline"
#include "bench/probe_loops.inl"
