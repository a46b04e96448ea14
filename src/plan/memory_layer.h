#pragma once
/// The memory of a rank in one layer: attention and experts have files of their own.

#include <algorithm>

#include "aq/quant/workspace.h"
#include "aq/runtime/workspace.h"
#include "plan/memory.h"

namespace aq {

inline constexpr Index kFloat = 4;

/// Of a task's output factors.
Index output_bytes(const TaskShape& task);
/// Of a task's Hessian and of the sums beside it.
Index sum_bytes(const TaskShape& task);

/// Everything that is alive in one layer, moment by moment in the order of work.
class LayerMemory {
 public:
  LayerMemory(const LayerSizes& sizes, const RankShare& share, const WaveShape& wave)
      : sizes_(sizes),
        share_(share),
        shape_(wave),
        dispatched_(share.dispatch && sizes.routed),
        reduced_(dispatched_ ? wave.limits.reduced : wave.experts) {}

  std::vector<MemoryMoment> run();

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
  Index own_rows(const TaskShape& task, Index tasks) const;
  /// A rank's part of what is dealt to all.
  Index own_share(Index bytes) const { return ceil_div(bytes, Index{share_.ranks}); }

  /// What MPI keeps for the other ranks: for those of the node it grows to what was once on its
  /// way, half of the sums of a stage (measured), up to a segment each.
  Index messages() const;
  /// Holes that small results leave between temporary blocks in the heap; large ones are mapped one
  /// by one.
  Index gaps() const;
  /// What threads keep from one piece of work to the next.
  Index workspaces() const;

  void add(Stage stage, Phase phase, MemoryEstimate part);
  /// Activations in files, where they are offloaded.
  MemoryEstimate placed(MemoryEstimate part) const;
  /// The one with more memory, with as much in files as either has.
  MemoryEstimate larger(const MemoryEstimate& a, const MemoryEstimate& b) const;

  /// Reduce, factor, solve and exchange of a stage of `tasks` tasks; `rest` is alive throughout.
  void quantize(Stage stage, const TaskShape& task, Index tasks, const MemoryEstimate& rest);
  /// Results go to where they are used: `all` of the stage, of which `own` are made here.
  void exchange_results(Stage stage, Index all, Index own, const MemoryEstimate& rest);
  /// Of `owned` tasks, `rows` of each. Returns the bytes of their results.
  Index factor_and_solve(Stage stage, const TaskShape& task, Index owned, Index rows,
                         const MemoryEstimate& rest);

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

  /// A layer that runs with its results: from disk, or in its second pass.
  void whole_layer(Phase phase, const MemoryEstimate& rest);

  // In memory_attention.cpp.

  void attention();
  /// The sums of one Hessian over all tokens, lanes on threads: their norms, and these scaled.
  MemoryEstimate dense_sum(const TaskShape& task) const;
  /// So many bytes of output factors, a sequence on each thread: signs, heads and their gradients.
  MemoryEstimate output_sums(Index bytes) const;
  /// What is kept of all tokens for a stage of attention; norm(x) is computed where it is needed.
  Index inputs_of(Stage stage) const;
  /// Heads of a sequence, the output of all of them where it is rounded, and scores.
  Index attention_buffers() const;
  /// What runs between the stage before and this one.
  void run_to(Stage stage);

  // In memory_experts.cpp.

  /// Who sums over tokens of experts, and how much of the tree of lanes it keeps.
  struct Summing {
    Index experts, lanes, kept, pending;
    Index rows;  ///< of tokens, those of several experts each time
  };

  /// All MLPs run, beside what they read and the sum of what they give.
  MemoryEstimate all_experts() const;
  /// What down reads of so many tokens, as it is kept.
  Index hidden_bytes(Index rows) const {
    return rows * sizes_.mlp_width * (share_.bf16 ? kFloat / 2 : kFloat);
  }
  /// gate, up and down of a piece of tokens for each thread.
  Index pieces_of_mlp() const;

  /// Which tokens go where: choices of every token, and a list for each expert.
  Index routing() const {
    return share_.tokens * sizes_.top_k * 5 * kFloat + share_.tokens * 2 * kFloat;
  }
  /// Rows of the tokens that go to `count` experts, at most: no token goes to one expert twice.
  Index routed(Index count) const { return std::min(sizes_.top_k, count) * share_.tokens; }
  /// bfloat16 of what goes into down and comes out of it, a piece for each thread.
  Index narrowed() const;
  /// Tokens of the experts that are worked on at one time.
  Index group_rows(Index count) const;
  /// What down gives for them.
  Index outputs(Index count) const;

  Summing everywhere() const {
    return {reduced_, share_.lanes, share_.kept, share_.pending, routed(reduced_)};
  }
  Summing at_owner() const {
    return {shape_.limits.experts, share_.all_lanes, 1, share_.all_pending, shape_.limits.rows};
  }

  /// Rows that threads have at work, a piece of an expert or of a lane each.
  Index busy_rows(const Summing& summing) const;
  /// Sums of all experts in work, over the inputs of width n.
  MemoryEstimate expert_sums(const TaskShape& task, const Summing& summing) const;
  /// gate and up run and the inputs of down are summed, while `hidden` of them are kept.
  MemoryEstimate run_gate_up(Index hidden, const Summing& summing) const;

  /// Experts whose sums travel to their owners.
  void experts();

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
  MemoryEstimate dispatched_run() const;
  /// Whole tasks whose results stay here.
  void solve_own(Stage stage, const TaskShape& task, const MemoryEstimate& rest);
  /// Experts whose tokens come to their owners.
  void dispatched_experts();

  const LayerSizes& sizes_;
  const RankShare& share_;
  const WaveShape& shape_;
  bool dispatched_;      ///< some of the wave's experts
  Index reduced_;        ///< experts whose sums every rank has at one time
  MemoryEstimate base_;  ///< alive at every moment from here on
  Index packed_ = 0;     ///< results so far
  std::vector<MemoryMoment> moments_;
};

}  // namespace aq
