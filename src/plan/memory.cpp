#include "plan/memory.h"

#include <algorithm>

#include "aq/quant/hessian.h"

namespace aq {
namespace {

constexpr Index kFloat = 4;
constexpr Index kQueryTile = 256;  // rows of scores that attention keeps at one time
/// What BLAS, LibTorch, HDF5 and the allocator keep for themselves (measured: 12 to 22 MiB).
constexpr Index kLibraryBytes = Index{12} << 20;
constexpr Index kLibraryBytesThread = Index{6} << 20;

}  // namespace

Index most_pending_partials(const LaneLayout& layout, int ranks) {
  Index most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range lanes = layout.lanes_of_rank(rank, ranks);
    for (Index end = lanes.begin; end <= lanes.end; ++end)
      most = std::max(most, static_cast<Index>(maximal_subtrees({lanes.begin, end}).size()));
  }
  return most + 1;  // and the lane in work
}

MemoryEstimate estimate_memory(const LayerSizes& sizes, const Workload& workload, int ranks,
                               int threads, Index wave_experts) {
  const LaneLayout& layout = workload.lanes;
  const Index lanes = ceil_div(layout.lanes, ranks);
  const Index sequences =
      std::min(layout.sequences, lanes * ceil_div(layout.sequences, layout.lanes));
  const Index tokens = sequences * workload.sequence_length;
  const Index workers = std::min<Index>(threads, sequences);
  const Index pending = most_pending_partials(layout, ranks);
  const Index owned = std::min<Index>(ceil_div(wave_experts, ranks), wave_experts);
  const Index batch = std::min<Index>(owned, threads);
  const auto square = [](Index n) { return n * n * kFloat; };
  const auto sum = [](Index n) { return hessian_size(n) * kFloat; };

  MemoryEstimate estimate;
  estimate.libraries = kLibraryBytes + threads * kLibraryBytesThread;
  estimate.activations =
      tokens * kFloat *
      (sizes.hidden +
       std::max(sizes.core_width + sizes.latent_width + (sizes.two_passes ? sizes.hidden : 0),
                2 * sizes.hidden) +
       3 * sizes.top_k + sizes.experts);
  estimate.attention = workers * workload.sequence_length * kFloat *
                       (sizes.hidden + sizes.head_widths + 2 * kQueryTile);
  if (sizes.all_tokens)  // gate and up of the experts in work, a sequence at a time
    estimate.attention = std::max(estimate.attention, std::min<Index>(threads, wave_experts) *
                                                          workload.sequence_length * kFloat *
                                                          (sizes.hidden + 2 * sizes.mlp_width));
  const auto factor = [&](Index n) {
    return static_cast<Index>(sizes.factor_squares * static_cast<double>(square(n)));
  };
  const auto stage = [&](Index n) {
    return wave_experts * pending * sum(n) + owned * sum(n) + batch * factor(n);
  };
  const Index gate_up = stage(sizes.hidden);
  const Index chosen = std::min(sizes.top_k, wave_experts);
  const Index down = stage(sizes.mlp_width) + tokens * chosen * sizes.mlp_width * kFloat;
  const Index widest = std::max(sizes.hidden, sizes.core_width);
  const Index attention = (pending + workers) * sum(widest) + square(widest) + factor(widest);
  estimate.hessians = std::max({gate_up, down, attention});
  const auto packed = static_cast<Index>(static_cast<double>(wave_experts * sizes.mlp_weights) *
                                         sizes.stored_bits / 8);
  const auto layer_packed =
      static_cast<Index>(static_cast<double>(sizes.layer_weights) * sizes.stored_bits / 8);
  estimate.weights = layer_packed + std::max(2 * packed + 2 * batch * sizes.mlp_weights * kFloat,
                                             sizes.attention_weights * kFloat);
  return estimate;
}

}  // namespace aq
