#include "aq/plan/experts_together.h"
#include "plan/memory_layer.h"

namespace aq {

MemoryEstimate LayerMemory::all_experts() const {
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

Index LayerMemory::pieces_of_mlp() const {
  const Index width = 2 * sizes_.hidden + 3 * sizes_.mlp_width;
  return share_.threads * piece() * width * product_bytes();
}

Index LayerMemory::narrowed() const {
  const Index width = sizes_.hidden + sizes_.mlp_width;
  return share_.bf16 ? share_.threads * piece() * width * 2 : 0;
}

Index LayerMemory::group_rows(Index count) const {
  return std::min(routed(count),
                  most_rows_together(count, sizes_.experts, sizes_.top_k, share_.tokens));
}

Index LayerMemory::outputs(Index count) const {
  if (one_after_the_other(count, share_.threads)) return pieces_of_mlp();
  return group_rows(count) * sizes_.hidden * kFloat + narrowed();
}

Index LayerMemory::busy_rows(const Summing& summing) const {
  const bool experts_on_threads = summing.experts >= share_.threads;
  const Index busy = threads_of(experts_on_threads ? summing.experts : summing.lanes);
  return sizes_.all_tokens ? busy * piece() : std::min(busy * piece(), summing.rows);
}

MemoryEstimate LayerMemory::expert_sums(const TaskShape& task, const Summing& summing) const {
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

MemoryEstimate LayerMemory::run_gate_up(Index hidden, const Summing& summing) const {
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

void LayerMemory::experts() {
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

MemoryEstimate LayerMemory::dispatched_run() const {
  // Made ahead, or in one round: of every rank with lanes as many as the fullest has tokens.
  const Index with_lanes = std::min<Index>(share_.ranks, share_.all_lanes);
  const Index rows = std::min(shape_.limits.rows, with_lanes * share_.tokens);
  const Index stay = share_.tokens * sizes_.mlp_width * kFloat;
  const Index outputs = rows * sizes_.hidden * kFloat + 2 * floats(sizes_.hidden) + narrowed();
  const Index hidden = hidden_bytes(shape_.limits.rows);
  return larger({.activations = hidden, .buffers = token_lists() + gathered(1)},
                {.activations = hidden + stay, .buffers = token_lists() + outputs});
}

void LayerMemory::solve_own(Stage stage, const TaskShape& task, const MemoryEstimate& rest) {
  const Index own = factor_and_solve(stage, task, shape_.limits.experts, task.rows, rest);
  exchange_results(stage, 0, own, rest);
}

void LayerMemory::dispatched_experts() {
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

}  // namespace aq
