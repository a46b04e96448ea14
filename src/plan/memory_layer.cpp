#include <algorithm>
#include <utility>

#include "aq/core/memory.h"
#include "aq/plan/experts_together.h"
#include "aq/quant/hessian.h"
#include "aq/quant/workspace.h"
#include "aq/runtime/workspace.h"
#include "plan/memory.h"

namespace aq {
namespace {

constexpr Index kFloat = 4;
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
Index output_bytes(const TaskShape& task) {
  return task.output_rows * kRowTile * kFloat;
}
/// Of a task's Hessian and of the sums beside it.
Index sum_bytes(const TaskShape& task) {
  return task.has_hessian ? hessian_bytes(task.columns) + cross_bytes(task) + output_bytes(task)
                          : 0;
}

/// Everything that is alive in one layer, moment by moment in the order of work.
class LayerMemory {
 public:
  LayerMemory(const LayerSizes& sizes, const RankShare& share, const WaveShape& wave)
      : sizes_(sizes),
        share_(share),
        shape_(wave),
        dispatched_(share.dispatch && sizes.routed),
        reduced_(dispatched_ ? wave.limits.reduced : wave.experts) {}

  std::vector<MemoryMoment> run() {
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

 private:
  Index streams() const { return sizes_.runs_original ? 2 : 1; }
  /// A matrix of one row a token.
  Index floats(Index width) const { return share_.tokens * width * kFloat; }
  Index threads_of(Index pieces) const { return std::min<Index>(share_.threads, pieces); }
  /// Output of the attention core.
  Index core_bytes() const { return floats(sizes_.core_width) / (share_.bf16 ? 2 : 1); }
  /// Bytes of a value of a product, with its copy in bfloat16: of inputs and outputs, and of a
  /// weight that is the only one (of several the others have lost their float32 by then).
  Index product_bytes() const { return kFloat + (share_.bf16 ? 2 : 0); }
  /// A matrix of one row a token of a sequence, for each thread that works on one.
  Index worker_buffers(Index width) const {
    return share_.workers * share_.length * width * product_bytes();
  }
  /// Rows that a rank solves of each task that it works on, of a stage of `tasks` tasks.
  Index own_rows(const TaskShape& task, Index tasks) const {
    if (tasks >= share_.ranks) return task.rows;
    return std::min(task.rows,
                    round_up(ceil_div(task.rows, share_.ranks / tasks), kRowTile) + kRowTile);
  }
  /// A rank's part of what is dealt to all.
  Index own_share(Index bytes) const { return ceil_div(bytes, Index{share_.ranks}); }

  /// What MPI keeps for the other ranks: for those of the node it grows to what was once on its
  /// way, half of the sums of a stage (measured), up to a segment each.
  Index messages() const {
    const Index neighbours = std::min(share_.ranks, share_.node_ranks) - 1;
    Index travels = dispatched_ ? floats(sizes_.hidden) / 2 : 0;
    const auto see = [&](const TaskShape& task, Index tasks) {
      if (task.has_hessian)
        travels = std::max(travels, tasks * share_.inbound * sum_bytes(task) / 2);
    };
    for (const StageShape& group : sizes_.attention) see(group.task, 1);
    see(sizes_.gate_up, reduced_);
    see(sizes_.down, reduced_);
    return neighbours * kNeighbourBytes + std::min(neighbours * kSegmentBytes, travels) +
           (share_.ranks - 1 - neighbours) * kPeerBytes;
  }

  /// Holes that small results leave between temporary blocks in the heap; large ones are mapped one
  /// by one.
  Index gaps() const {
    const bool small = sizes_.down.packed_bytes < kMappedBlockBytes;
    const Index results = sizes_.layer_packed_bytes + own_share(sizes_.layer_packed_bytes);
    return small ? results / kGapShare : 0;
  }

  /// What threads keep from one piece of work to the next.
  Index workspaces() const {
    Index packed = 0, parts = 0, rows = 0;
    const auto see = [&](const TaskShape& task, Index tasks) {
      if (task.has_hessian && share_.tokens > 0)
        packed = std::max(packed, hessian_workspace_bytes(task.columns, share_.lane_tokens));
      const Index factors = threads_of(ceil_div(tasks, Index{share_.ranks}));
      const Index part = task.has_hessian ? factor_workspace_bytes(task.columns) : 0;
      if (part <= kKeptWorkspaceBytes) parts = std::max(parts, factors * part);
      rows = std::max(rows, task.rows > 0 ? solve_workspace_bytes(task.columns, task.group,
                                                                  task.output_rows > 0)
                                          : 0);
    };
    for (const StageShape& group : sizes_.attention) see(group.task, 1);
    see(sizes_.gate_up, reduced_);
    see(sizes_.down, reduced_);
    return share_.threads * (packed + rows) + parts;
  }

  void add(Stage stage, Phase phase, MemoryEstimate part) {
    part += base_;
    part.weights += packed_;
    moments_.push_back({stage, phase, placed(part)});
  }

  /// Activations in files, where they are offloaded.
  MemoryEstimate placed(MemoryEstimate part) const {
    if (share_.offload) part.offloaded += std::exchange(part.activations, 0);
    return part;
  }
  /// The one with more memory, with as much in files as either has.
  MemoryEstimate larger(const MemoryEstimate& a, const MemoryEstimate& b) const {
    const MemoryEstimate first = placed(a), second = placed(b);
    MemoryEstimate most = first.total() < second.total() ? second : first;
    most.offloaded = std::max(first.offloaded, second.offloaded);
    return most;
  }

  /// Reduce, factor, solve and exchange of a stage of `tasks` tasks; `rest` is alive throughout.
  void quantize(Stage stage, const TaskShape& task, Index tasks, const MemoryEstimate& rest) {
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

  /// Results go to where they are used: `all` of the stage, of which `own` are made here.
  void exchange_results(Stage stage, Index all, Index own, const MemoryEstimate& rest) {
    MemoryEstimate now = rest;
    now.weights += 2 * all + 2 * own;
    now.buffers += share_.ranks > 1 ? std::min(all, kGatherPieces * kPieceBytes) : 0;
    add(stage, Phase::exchange, now);
  }

  /// Of `owned` tasks, `rows` of each. Returns the bytes of their results.
  Index factor_and_solve(Stage stage, const TaskShape& task, Index owned, Index rows,
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

  /// Tokens that are worked on at one time, of those of a lane.
  Index piece() const { return std::min(runtime::kProductRows, share_.lane_tokens); }

  /// Of one Hessian.
  Index sums_at_once(const TaskShape& task, Index lanes) const {
    return task.columns >= kWideSum ? 1 : threads_of(lanes);
  }

  /// Floats of what a token lacks, while it is made and as it is summed beside its input.
  static Index lack_width(const TaskShape& task) {
    return task.cross_rows == 0 ? 0 : 3 * task.cross_rows + task.columns;
  }

  /// The sums of one Hessian over all tokens, lanes on threads: their norms, and these scaled.
  MemoryEstimate dense_sum(const TaskShape& task) const {
    if (!task.has_hessian) return {};
    const Index busy = sums_at_once(task, share_.lanes);
    const Index ahead = share_.threads * lack_width(task);
    return {.buffers = piece() * (busy * 2 * task.columns + ahead) * kFloat,
            .hessians = (share_.pending + busy - 1) * sum_bytes(task)};
  }

  void attention() {
    const StageShape* before = nullptr;
    Index all = 0;  // output factors: all are made with the first of them
    for (const StageShape& group : sizes_.attention) all += output_bytes(group.task);
    Index left = all;
    const Index original_o =
        sizes_.runs_original ? sizes_.attention.back().task.weights * product_bytes() : 0;
    for (const StageShape& group : sizes_.attention) {
      if (before == nullptr || before->stage != group.stage) run_to(group.stage);
      before = &group;
      MemoryEstimate rest{.activations = inputs_of(group.stage)};
      if (group.stage == Stage::latent) rest.activations *= streams();
      if (group.stage == Stage::o) rest.weights = original_o;
      if (const Index own = output_bytes(group.task); own > 0) {
        if (left == all) add(group.stage, Phase::hessian, output_sums(all));
        left -= own;
        rest.hessians = share_.pending * left;
      }
      MemoryEstimate sum = dense_sum(group.task);
      sum += rest;
      add(group.stage, Phase::hessian, sum);
      quantize(group.stage, group.task, 1, rest);
    }
    add(Stage::o, Phase::forward,
        {.activations = inputs_of(Stage::o),
         .buffers = worker_buffers(sizes_.hidden),
         .weights = sizes_.attention.back().task.weights * product_bytes()});
  }

  /// So many bytes of output factors, a sequence on each thread: signs, heads and their gradients.
  MemoryEstimate output_sums(Index bytes) const {
    const Index width = 2 * sizes_.hidden + sizes_.head_widths + sizes_.gradient_widths;
    const Index o = sizes_.attention.back().task.weights;
    return {.activations = floats(sizes_.latent_width) * streams(),
            .buffers = worker_buffers(width + 2 * runtime::kQueryTile),
            .hessians = (share_.pending + share_.workers + 1) * bytes,
            .weights = (sizes_.attention_weights + o) * product_bytes()};
  }

  /// What is kept of all tokens for a stage of attention; norm(x) is computed where it is needed.
  Index inputs_of(Stage stage) const {
    if (stage == Stage::latent) return floats(sizes_.latent_width);
    return stage == Stage::o ? core_bytes() : 0;
  }

  /// Heads of a sequence, the output of all of them where it is rounded, and scores.
  Index attention_buffers() const {
    const Index output = share_.bf16 ? sizes_.core_width : 0;
    return worker_buffers(sizes_.hidden + sizes_.head_widths + output + runtime::kQueryTile);
  }

  /// What runs between the stage before and this one.
  void run_to(Stage stage) {
    const Index latents = inputs_of(Stage::latent);
    if (stage == Stage::latent)
      add(Stage::latent, Phase::forward,
          {.activations = latents * streams(),
           .buffers = worker_buffers(sizes_.hidden + sizes_.latent_width),
           .weights = sizes_.attention.front().task.weights * product_bytes()});
    if (stage == Stage::o)
      add(Stage::core, Phase::forward,
          {.activations = (inputs_of(Stage::o) + latents) * streams(),
           .buffers = attention_buffers(),
           .weights = sizes_.attention_weights * kFloat});
  }

  /// A layer that runs with its results: from disk, or in its second pass.
  void whole_layer(Phase phase, const MemoryEstimate& rest) {
    MemoryEstimate attention{.activations = core_bytes() + floats(sizes_.latent_width),
                             .buffers = attention_buffers(),
                             .weights = sizes_.attention_weights * kFloat};
    MemoryEstimate mlps = all_experts();
    mlps.activations += 2 * floats(sizes_.hidden);
    MemoryEstimate most = larger(attention, mlps);
    add(Stage::layer, phase, most += rest);
  }

  /// All MLPs run, beside what they read and the sum of what they give.
  MemoryEstimate all_experts() const {
    const Index step = threads_of(sizes_.experts);
    const bool kept = sizes_.routed && !one_after_the_other(step, share_.threads);
    MemoryEstimate now{.activations = kept ? hidden_bytes(group_rows(step)) : 0,
                       .buffers = routing() + (kept ? outputs(step) : pieces_of_mlp()),
                       .weights = step * sizes_.gate_up.weights * kFloat};
    if (!dispatched_) return now;
    MemoryEstimate away = dispatched_run();
    away.weights += step * sizes_.gate_up.weights * kFloat;
    away.buffers += routing();
    return larger(now, away);
  }

  /// What down reads of so many tokens, as it is kept.
  Index hidden_bytes(Index rows) const {
    return rows * sizes_.mlp_width * (share_.bf16 ? kFloat / 2 : kFloat);
  }
  /// gate, up and down of a piece of tokens for each thread.
  Index pieces_of_mlp() const {
    const Index width = 2 * sizes_.hidden + 3 * sizes_.mlp_width;
    return share_.threads * piece() * width * product_bytes();
  }

  /// Which tokens go where: choices of every token, and a list for each expert.
  Index routing() const {
    return share_.tokens * sizes_.top_k * 5 * kFloat + share_.tokens * 2 * kFloat;
  }
  /// Rows of the tokens that go to `count` experts, at most: no token goes to one expert twice.
  Index routed(Index count) const { return std::min(sizes_.top_k, count) * share_.tokens; }
  /// bfloat16 of what goes into down and comes out of it, a piece for each thread.
  Index narrowed() const {
    const Index width = sizes_.hidden + sizes_.mlp_width;
    return share_.bf16 ? share_.threads * piece() * width * 2 : 0;
  }
  /// Tokens of the experts that are worked on at one time.
  Index group_rows(Index count) const {
    return std::min(routed(count),
                    most_rows_together(count, sizes_.experts, sizes_.top_k, share_.tokens));
  }
  /// What down gives for them.
  Index outputs(Index count) const {
    if (one_after_the_other(count, share_.threads)) return pieces_of_mlp();
    return group_rows(count) * sizes_.hidden * kFloat + narrowed();
  }

  /// Who sums over tokens of experts, and how much of the tree of lanes it keeps.
  struct Summing {
    Index experts, lanes, kept, pending;
    Index rows;  ///< of tokens, those of several experts each time
  };
  Summing everywhere() const {
    return {reduced_, share_.lanes, share_.kept, share_.pending, routed(reduced_)};
  }
  Summing at_owner() const {
    return {shape_.limits.experts, share_.all_lanes, 1, share_.all_pending, shape_.limits.rows};
  }

  /// Rows that threads have at work, a piece of an expert or of a lane each.
  Index busy_rows(const Summing& summing) const {
    const bool experts_on_threads = summing.experts >= share_.threads;
    const Index busy = threads_of(experts_on_threads ? summing.experts : summing.lanes);
    return sizes_.all_tokens ? busy * piece() : std::min(busy * piece(), summing.rows);
  }

  /// Sums of all experts in work, over the inputs of width n.
  MemoryEstimate expert_sums(const TaskShape& task, const Summing& summing) const {
    if (!task.has_hessian) return {};
    const Index unfinished = std::max<Index>(0, summing.pending - summing.kept);
    const Index in_work = summing.experts >= share_.threads
                              ? share_.threads * unfinished
                              : unfinished + sums_at_once(task, summing.lanes) - 1;
    // Scaled, and before that as float32 where they are kept in bfloat16.
    return {.buffers = busy_rows(summing) * kFloat *
                       (task.columns * (share_.bf16 ? 2 : 1) + lack_width(task)),
            .hessians = (summing.experts * summing.kept + in_work) * sum_bytes(task)};
  }

  /// gate and up run and the inputs of down are summed, while `hidden` of them are kept.
  MemoryEstimate run_gate_up(Index hidden, const Summing& summing) const {
    MemoryEstimate now = expert_sums(sizes_.down, summing);
    const Index width = sizes_.hidden + 3 * sizes_.mlp_width;
    now.activations += hidden_bytes(hidden);
    now.weights += threads_of(summing.experts) * sizes_.gate_up.weights * kFloat;
    now.buffers += busy_rows(summing) * width * product_bytes();
    if (sizes_.down.cross_rows > 0) {  // the expert with its original weights too
      now.weights += threads_of(summing.experts) *
                     (sizes_.gate_up.weights * kFloat + sizes_.down.weights * product_bytes());
      now.buffers += busy_rows(summing) * width * product_bytes();
    }
    return now;
  }

  /// Experts whose sums travel to their owners.
  void experts() {
    const Index y = sizes_.two_passes ? 0 : floats(sizes_.hidden);
    base_.activations += floats(sizes_.hidden);
    base_.buffers += routing();
    if (sizes_.runs_original) {
      base_.activations += 2 * floats(sizes_.hidden);  // what inputs and outputs lack
      add(Stage::gate_up, Phase::forward, all_experts());
    }
    base_.activations += y;
    // The last wave has the results of all the others beside it.
    packed_ =
        std::max(packed_, sizes_.layer_packed_bytes + own_share(sizes_.layer_packed_bytes) -
                              reduced_ * (sizes_.gate_up.packed_bytes + sizes_.down.packed_bytes));
    add(Stage::gate_up, Phase::hessian, expert_sums(sizes_.gate_up, everywhere()));
    quantize(Stage::gate_up, sizes_.gate_up, reduced_, {});
    // A first pass of two ends with the sums: it keeps the outputs of experts in work alone. So do
    // experts beside dispatched ones, which run gate and up again.
    const bool keeps = !sizes_.two_passes && !dispatched_;
    const Index hidden = routed(keeps ? reduced_ : threads_of(reduced_));
    add(Stage::gate_up, Phase::forward, run_gate_up(hidden, everywhere()));
    const Index kept = keeps ? hidden_bytes(hidden) : 0;
    quantize(Stage::down, sizes_.down, reduced_, {.activations = kept});
    if (!keeps) return;
    const Index step = threads_of(reduced_);
    add(Stage::down, Phase::forward,
        {.activations = kept,
         .buffers = outputs(step),
         .weights = step * sizes_.down.weights * product_bytes()});
  }

  /// Inputs of the tokens that come to one owner, `arrays` of them.
  Index gathered(Index arrays) const {
    return std::min(shape_.limits.rows, share_.all_tokens) * arrays * sizes_.hidden * kFloat;
  }
  /// Places and weights of tokens, on the way and as they are kept.
  Index token_lists() const {
    return (3 * routed(shape_.experts) + 4 * shape_.limits.rows) * kFloat;
  }
  /// A wave of dispatched experts runs: first the inputs are there and give what down reads; then
  /// outputs are made and brought back a round at a time, which has at most every token of a rank,
  /// as do experts that stay.
  MemoryEstimate dispatched_run() const {
    // Made ahead, or in one round: of every rank with lanes as many as the fullest has tokens.
    const Index with_lanes = std::min<Index>(share_.ranks, share_.all_lanes);
    const Index rows = std::min(shape_.limits.rows, with_lanes * share_.tokens);
    const Index stay = share_.tokens * sizes_.mlp_width * kFloat;
    const Index outputs = rows * sizes_.hidden * kFloat + 2 * floats(sizes_.hidden) + narrowed();
    const Index hidden = hidden_bytes(shape_.limits.rows);
    return larger({.activations = hidden, .buffers = token_lists() + gathered(1)},
                  {.activations = hidden + stay, .buffers = token_lists() + outputs});
  }

  /// Whole tasks whose results stay here.
  void solve_own(Stage stage, const TaskShape& task, const MemoryEstimate& rest) {
    const Index own = factor_and_solve(stage, task, shape_.limits.experts, task.rows, rest);
    exchange_results(stage, 0, own, rest);
  }

  /// Experts whose tokens come to their owners.
  void dispatched_experts() {
    const Index owned = shape_.limits.experts, step = threads_of(owned);
    packed_ = sizes_.layer_packed_bytes + own_share(sizes_.layer_packed_bytes);
    const Index arrays = sizes_.runs_original ? 3 : 1;  // with what they lack
    const MemoryEstimate tokens{.buffers = gathered(arrays) + token_lists()};
    const auto beside_tokens = [&](MemoryEstimate now) { return now += tokens; };
    add(Stage::gate_up, Phase::dispatch, beside_tokens({.buffers = floats(sizes_.hidden)}));
    add(Stage::gate_up, Phase::hessian, beside_tokens(expert_sums(sizes_.gate_up, at_owner())));
    solve_own(Stage::gate_up, sizes_.gate_up, tokens);
    const Index hidden = sizes_.two_passes ? std::min(shape_.limits.rows, step * share_.all_tokens)
                                           : shape_.limits.rows;
    add(Stage::gate_up, Phase::forward, beside_tokens(run_gate_up(hidden, at_owner())));
    MemoryEstimate rest = tokens;
    if (!sizes_.two_passes) rest.activations += hidden_bytes(hidden);
    solve_own(Stage::down, sizes_.down, rest);
    if (sizes_.two_passes) return;
    MemoryEstimate now = dispatched_run();
    now.weights =
        step * std::max(sizes_.gate_up.weights * kFloat, sizes_.down.weights * product_bytes());
    add(Stage::down, Phase::forward, now);
    add(Stage::down, Phase::dispatch, now);
  }

  const LayerSizes& sizes_;
  const RankShare& share_;
  const WaveShape& shape_;
  bool dispatched_;      ///< some of the wave's experts
  Index reduced_;        ///< experts whose sums every rank has at one time
  MemoryEstimate base_;  ///< alive at every moment from here on
  Index packed_ = 0;     ///< results so far
  std::vector<MemoryMoment> moments_;
};

}  // namespace

std::vector<MemoryMoment> layer_memory(const LayerSizes& sizes, const RankShare& share,
                                       const WaveShape& wave) {
  return LayerMemory(sizes, share, wave).run();
}

}  // namespace aq
