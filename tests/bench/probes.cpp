#include "bench/probes.h"

#include <unistd.h>

#include <algorithm>
#include <memory>

#include "aq/core/block_array.h"
#include "aq/core/parallel.h"
#include "aq/quant/solver.h"

namespace aq::bench {
namespace {

/// The loops of the instruction set that the row kernel has chosen.
const ProbeLoops& loops() {
  const std::string kernel = blas_info().row_kernel;
#ifdef __x86_64__
  for (const ProbeLoops* each : {&probe_v3::loops, &probe_v4::loops})
    if (kernel == each->name) return *each;
#endif
  return probe_baseline::loops;
}

/// A loop that every thread runs.
Load loop_load(const Options& options, double (*loop)(Index steps, float& sink)) {
  const Index steps = options.small ? 10'000 : 10'000'000;
  const auto sinks = std::make_shared<std::vector<float>>(16 * thread_count(), 0.0F);
  return {loop(Index{1}, sinks->front()) * static_cast<double>(steps) * thread_count(),
          [=] { parallel_for(thread_count(), [&](Index t) { loop(steps, (*sinks)[16 * t]); }); }};
}

/// Arrays of one thread.
struct Arrays {
  FloatArray a, b, c;
  float sum = 0;
};

/// A pass of `body(arrays, count)` over arrays far larger than the caches, each thread its own.
Load memory_load(const Options& options, void (*body)(Arrays&, Index)) {
  const Index caches = std::max<Index>(sysconf(_SC_LEVEL3_CACHE_SIZE), Index{32} << 20);
  const Index total = options.small ? Index{4} << 20 : 16 * caches;
  const Index count = round_up(total / 3 / thread_count() / 4, 256);
  const auto arrays = std::make_shared<std::vector<Arrays>>(thread_count());
  parallel_for(thread_count(), [&](Index t) {  // the thread's own memory, on machines with several
    Arrays& own = (*arrays)[t];
    for (FloatArray* array : {&own.a, &own.b, &own.c}) array->assign(count, 1.0F);
  });
  return {3.0 * sizeof(float) * static_cast<double>(count * thread_count()),
          [=] { parallel_for(thread_count(), [&](Index t) { body((*arrays)[t], count); }); }};
}

void triad(Arrays& arrays, Index count) {
  loops().triad(arrays.a.data(), arrays.b.data(), arrays.c.data(), 0.5F, count);
}

void read(Arrays& arrays, Index count) {
  for (const FloatArray* array : {&arrays.a, &arrays.b, &arrays.c})
    arrays.sum += loops().read(array->data(), count);
}

}  // namespace

std::map<Bound, std::vector<Probe>> common_probes() {
  std::map<Bound, std::vector<Probe>> probes;
  probes[Bound::fp32] = {{str("multiply-adds in registers, ", loops().name),
                          [](const Options& o) { return loop_load(o, loops().multiply_add); }}};
  probes[Bound::memory] = {
      {"triad of large arrays", [](const Options& o) { return memory_load(o, triad); }},
      {"reading large arrays", [](const Options& o) { return memory_load(o, read); }}};
#ifdef AQ_BENCH_AVX512_BF16
  if (__builtin_cpu_supports("avx512bf16"))
    probes[Bound::bf16] = {{"vdpbf16ps in registers",
                            [](const Options& o) { return loop_load(o, multiply_add_bf16); }}};
#endif
  return probes;
}

}  // namespace aq::bench
