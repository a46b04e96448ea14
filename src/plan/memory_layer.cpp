#include "plan/memory_layer.h"

#include <utility>

#include "aq/core/memory.h"
#include "aq/quant/hessian.h"

namespace aq {
namespace {

constexpr Index kMiB = Index{1} << 20;
constexpr Index kReadBuffer = 2 * kMiB;  // of a tensor that is not stored as float32
/// What BLAS, LibTorch, HDF5, MPI and the allocator keep for themselves (measured).
constexpr Index kLibraryBytes = 8 * kMiB;
constexpr Index kLibraryBytesThread = kMiB;
constexpr Index kOriginalBytesThread = 2 * kMiB;  // beside the original stream (measured)
constexpr Index kCompiledBytes = 2 * kMiB;   // kernels that oneDNN compiles for bfloat16 (measured)
constexpr Index kNeighbourBytes = kMiB;      // of MPI, for each other rank of the node (measured)
constexpr Index kSegmentBytes = 4 * kMiB;    // of shared memory, of each of them at most
constexpr Index kPeerBytes = kMiB / 16;      // for each rank elsewhere (not measured)
constexpr Index kShardBytes = kMiB * 3 / 4;  // HDF5 with one more shard open (measured)
constexpr Index kGapShare = 4;  // a hole for so many bytes of results (a sixth was measured)
constexpr Index kFileBytes = 3 * kMiB;  // HDF5 with a file open

Index square(Index n) {
  return n * n * kFloat;
}
Index hessian_bytes(Index n) {
  return hessian_size(n) * kFloat;
}
Index cross_bytes(const TaskShape& task) {
  return task.cross_rows * task.columns * kFloat;
}

}  // namespace

Index output_bytes(const TaskShape& task) {
  return task.output_rows * kRowTile * kFloat;
}
Index sum_bytes(const TaskShape& task) {
  return task.has_hessian ? hessian_bytes(task.columns) + cross_bytes(task) + output_bytes(task)
                          : 0;
}

std::vector<MemoryMoment> LayerMemory::run() {
  const Index residual = floats(sizes_.hidden) * (streams() + (sizes_.two_passes ? 1 : 0));
  const Index tokens = share_.tokens * 2 * kFloat;  // and the rows of the sequences
  base_.libraries = kLibraryBytes + (share_.bf16 ? kCompiledBytes : 0) +
                    share_.threads * kLibraryBytesThread + messages() + workspaces() + gaps() +
                    (sizes_.runs_original ? share_.threads * kOriginalBytesThread : 0);
  base_.activations = residual;
  base_.buffers = tokens;
  const Index table = std::min(share_.tokens, sizes_.vocabulary) * sizes_.hidden * kFloat;
  add(Stage::embed, Phase::embed, {.buffers = tokens + table});
  attention();
  experts();
  if (dispatched_) dispatched_experts();
  base_ = {.activations = streams() * floats(sizes_.hidden),
           .buffers = tokens,
           .libraries = base_.libraries};
  packed_ = sizes_.layer_packed_bytes;
  if (sizes_.two_passes) whole_layer(Phase::forward, {.weights = own_share(packed_)});
  add(Stage::layer, Phase::write,
      {.buffers = kFileBytes + packed_ / 4, .weights = own_share(packed_)});
  packed_ = 0;  // merged matrix by matrix
  add(Stage::layer, Phase::merge,
      {.buffers = kFileBytes + share_.ranks * kShardBytes, .weights = sizes_.down.packed_bytes});
  packed_ = sizes_.layer_packed_bytes;
  whole_layer(Phase::resume, {.buffers = kFileBytes});
  return std::move(moments_);
}

Index LayerMemory::own_rows(const TaskShape& task, Index tasks) const {
  if (tasks >= share_.ranks) return task.rows;
  return std::min(task.rows,
                  round_up(ceil_div(task.rows, share_.ranks / tasks), kRowTile) + kRowTile);
}

Index LayerMemory::messages() const {
  const Index neighbours = std::min(share_.ranks, share_.node_ranks) - 1;
  Index travels = dispatched_ ? floats(sizes_.hidden) / 2 : 0;
  const auto see = [&](const TaskShape& task, Index tasks) {
    if (task.has_hessian) travels = std::max(travels, tasks * share_.inbound * sum_bytes(task) / 2);
  };
  for (const StageShape& group : sizes_.attention) see(group.task, 1);
  see(sizes_.gate_up, reduced_);
  see(sizes_.down, reduced_);
  return neighbours * kNeighbourBytes + std::min(neighbours * kSegmentBytes, travels) +
         (share_.ranks - 1 - neighbours) * kPeerBytes;
}

Index LayerMemory::gaps() const {
  const bool small = sizes_.down.packed_bytes < kMappedBlockBytes;
  const Index results = sizes_.layer_packed_bytes + own_share(sizes_.layer_packed_bytes);
  return small ? results / kGapShare : 0;
}

Index LayerMemory::workspaces() const {
  Index packed = 0, parts = 0, rows = 0;
  const auto see = [&](const TaskShape& task, Index tasks) {
    if (task.has_hessian && share_.tokens > 0)
      packed = std::max(packed, hessian_workspace_bytes(task.columns, share_.lane_tokens));
    const Index factors = threads_of(ceil_div(tasks, Index{share_.ranks}));
    const Index part = task.has_hessian ? factor_workspace_bytes(task.columns) : 0;
    if (part <= kKeptWorkspaceBytes) parts = std::max(parts, factors * part);
    rows = std::max(
        rows,
        task.rows > 0 ? solve_workspace_bytes(task.columns, task.group, task.output_rows > 0) : 0);
  };
  for (const StageShape& group : sizes_.attention) see(group.task, 1);
  see(sizes_.gate_up, reduced_);
  see(sizes_.down, reduced_);
  return share_.threads * (packed + rows) + parts;
}

void LayerMemory::add(Stage stage, Phase phase, MemoryEstimate part) {
  part += base_;
  part.weights += packed_;
  moments_.push_back({stage, phase, placed(part)});
}

MemoryEstimate LayerMemory::placed(MemoryEstimate part) const {
  if (share_.offload) part.offloaded += std::exchange(part.activations, 0);
  return part;
}

MemoryEstimate LayerMemory::larger(const MemoryEstimate& a, const MemoryEstimate& b) const {
  const MemoryEstimate first = placed(a), second = placed(b);
  MemoryEstimate most = first.total() < second.total() ? second : first;
  most.offloaded = std::max(first.offloaded, second.offloaded);
  return most;
}

void LayerMemory::quantize(Stage stage, const TaskShape& task, Index tasks,
                           const MemoryEstimate& rest) {
  const Index owned = ceil_div(tasks, Index{share_.ranks});
  const Index sum = sum_bytes(task);
  if (share_.ranks > 1) {
    MemoryEstimate now = rest;
    now.hessians += tasks * share_.kept * sum;
    now.buffers += reduce_buffers(share_, tasks, sum, tasks == 1 && task.along_tree);
    add(stage, Phase::reduce, now);
  }
  const Index own = factor_and_solve(stage, task, owned, own_rows(task, tasks), rest);
  const Index all = tasks * task.packed_bytes;
  exchange_results(stage, all, own, rest);
  packed_ += all + own;
}

void LayerMemory::exchange_results(Stage stage, Index all, Index own, const MemoryEstimate& rest) {
  MemoryEstimate now = rest;
  now.weights += 2 * all + 2 * own;
  now.buffers += share_.ranks > 1 ? std::min(all, kGatherPieces * kPieceBytes) : 0;
  add(stage, Phase::exchange, now);
}

Index LayerMemory::factor_and_solve(Stage stage, const TaskShape& task, Index owned, Index rows,
                                    const MemoryEstimate& rest) {
  const Index chunk = threads_of(owned);
  const Index n = task.columns;
  const Index sum = sum_bytes(task), cross = cross_bytes(task);
  const Index part = square(n) / 2;
  const Index beside = cross + output_bytes(task);
  const Index factor = task.has_hessian ? part + (sizes_.refines ? square(n) : 0) + beside : 0;
  MemoryEstimate now = rest;
  now.hessians += owned * sum + chunk * factor;
  if (task.has_hessian && sizes_.reorders) now.hessians += chunk * hessian_bytes(n);
  if (const Index workspace = factor_workspace_bytes(n);
      task.has_hessian && workspace > kKeptWorkspaceBytes)
    now.buffers += chunk * workspace;
  add(stage, Phase::factor, now);
  const Index own = task.rows == 0 ? 0 : owned * (task.packed_bytes * rows / task.rows);
  now = rest;
  now.hessians += (owned - chunk) * sum + chunk * factor;
  now.weights += chunk * rows * n * kFloat * (cross > 0 ? 2 : 1) + own;
  now.buffers += share_.threads * std::min(kReadBuffer, task.rows * n * 2);
  if (cross > 0) now.buffers += chunk * square(n);  // U whole
  add(stage, Phase::solve, now);
  return own;
}

void LayerMemory::whole_layer(Phase phase, const MemoryEstimate& rest) {
  MemoryEstimate attention{.activations = core_bytes() + floats(sizes_.latent_width),
                           .buffers = attention_buffers(),
                           .weights = sizes_.attention_weights * kFloat};
  MemoryEstimate mlps = all_experts();
  mlps.activations += 2 * floats(sizes_.hidden);
  MemoryEstimate most = larger(attention, mlps);
  add(Stage::layer, phase, most += rest);
}

std::vector<MemoryMoment> layer_memory(const LayerSizes& sizes, const RankShare& share,
                                       const WaveShape& wave) {
  return LayerMemory(sizes, share, wave).run();
}

}  // namespace aq
