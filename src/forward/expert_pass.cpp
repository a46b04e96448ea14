#include "aq/forward/expert_pass.h"

#include <algorithm>
#include <functional>

#include "aq/core/parallel.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"
#include "forward/expert_threads.h"

namespace aq {
namespace {

/// down(hidden) of tokens of one expert.
void multiply_down(const UsedLinear& down, Index expert, const Tensor& hidden, Tensor out) {
  SharedInput(hidden).multiply(down, out.window());
  // An input that is not finite makes outputs that are not.
  if (!note_finite(ForwardPart::down, out, expert))
    note_finite(ForwardPart::gate_up, hidden.as(DType::f32), expert);
}

/// The same of all its tokens.
Tensor down_of(const ExpertPass& pass, Index expert, const Tensor& hidden) {
  const UsedLinear down = pass.weights.used(pass.layer.mlp(expert).down);
  Tensor out(hidden.rows(), down.weight.rows());
  runtime::for_each_range(pass.tokens(expert).pieces(), [&](Index, Range rows) {
    multiply_down(down, expert, hidden.window(rows), out.window(rows));
  });
  return out;
}

/// y[row] += weight * down(hidden(places)) of one expert, whose pieces are worked on side by side.
void add_pieces(const ExpertPass& pass, Index expert,
                const std::function<Tensor(Range places)>& hidden, Tensor& y) {
  const UsedLinear down = pass.weights.used(pass.layer.mlp(expert).down);
  const TokenList& list = pass.tokens(expert);
  runtime::for_each_range(list.pieces(), [&](Index, Range places) {
    Tensor out(places.size(), down.weight.rows());
    multiply_down(down, expert, hidden(places), out.window());
    runtime::add_weighted(out, list.rows_at(places), list.weights_at(places), y);
  });
}

/// Of so few experts each is worked on by all threads, so that nothing of it is kept for later.
bool one_after_the_other(Index experts) {
  return thread_count() == 1 || experts < thread_count();
}

std::vector<Index> numbers_of(const ByExpert& tensors) {
  std::vector<Index> numbers;
  for (const auto& [expert, tensor] : tensors) numbers.push_back(expert);
  return numbers;
}

/// Whether experts of so many rows may be worked on at one time: together at most twice the rows
/// that an even routing gives them, or every token once.
bool fit_together(const ExpertPass& pass, Index experts, Index rows) {
  const Index tokens = pass.batch.rows();
  const auto& moe = pass.layer.moe;
  const Index even = moe ? experts * moe->routing.top_k * tokens / moe->routing.experts : tokens;
  return rows <= std::max(tokens, 2 * even);
}

/// Takes the first experts out of `hidden`: one a thread, of those that fit together.
ByExpert take_some(const ExpertPass& pass, ByExpert& hidden) {
  const Index most = std::min<Index>(thread_count(), std::ssize(hidden));
  ByExpert some;
  Index rows = 0;
  while (std::ssize(some) < most) {
    rows += hidden.begin()->second.rows();
    if (!some.empty() && !fit_together(pass, most, rows)) break;
    some.insert(hidden.extract(hidden.begin()));
  }
  return some;
}

/// The first of `experts`, in the same way.
std::vector<Index> first_of(const ExpertPass& pass, Range experts) {
  const Index most = std::min<Index>(thread_count(), experts.size());
  std::vector<Index> some;
  Index rows = 0;
  for (Index expert = experts.begin; std::ssize(some) < most; ++expert) {
    rows += pass.tokens(expert).size();
    if (!some.empty() && !fit_together(pass, most, rows)) break;
    some.push_back(expert);
  }
  return some;
}

}  // namespace

void for_each_expert(std::span<const Index> busy, const std::function<void(Index)>& work) {
  if (std::ssize(busy) >= thread_count())
    return parallel_for(std::ssize(busy), [&](Index i) { work(busy[i]); });
  for (const Index expert : busy) work(expert);
}

Tensor GateUp::hidden(const Tensor& normed, std::span<const std::int32_t> rows) const {
  SharedInput input(runtime::gather_rows(normed, rows));
  Tensor out = input.multiply(gate);
  runtime::gated_activation(activation, out, input.multiply(up));
  return out;
}

Tensor GateUp::hidden(const Tensor& normed, const TokenList& list) const {
  Tensor out(list.size(), gate.weight.rows(), gate.weight.kind());
  runtime::for_each_range(list.pieces(), [&](Index, Range places) {
    runtime::copy(hidden(normed, list.rows_at(places)), out.window(places));
  });
  return out;
}

ByExpert ExpertPass::hidden(std::span<const Index> experts) const {
  ByExpert made;
  for (const Index expert : experts)
    if (tokens(expert).size() > 0) made[expert];
  for_each_expert(numbers_of(made), [&](Index expert) {
    made.at(expert) = GateUp(layer.mlp(expert), weights).hidden(normed, tokens(expert));
  });
  return made;
}

ByExpert ExpertPass::outputs(ByExpert hidden) const {
  ByExpert made;
  for (const auto& [expert, tensor] : hidden) made[expert];
  for_each_expert(numbers_of(made), [&](Index expert) {
    Tensor& input = hidden.at(expert);
    made.at(expert) = down_of(*this, expert, input);
    input = {};
  });
  return made;
}

void ExpertPass::add(const ByExpert& outputs, Tensor& y) const {
  std::vector<Range> lanes;
  for (Index lane = 0; lane < batch.lanes(); ++lane) lanes.push_back(batch.rows_of_lane(lane));
  runtime::for_each_range(lanes, [&](Index lane, Range) {
    for (const auto& [expert, output] : outputs) {
      const TokenList& list = tokens(expert);
      const Range places = list.lane(lane);
      runtime::add_weighted(output.window(places), list.rows_at(places), list.weights_at(places),
                            y);
    }
  });
}

void ExpertPass::add_down(ByExpert hidden, Tensor& y) const {
  while (!one_after_the_other(std::ssize(hidden))) add(outputs(take_some(*this, hidden)), y);
  for (auto& one : hidden) {
    Tensor& tensor = one.second;
    add_pieces(
        *this, one.first, [&](Range places) { return tensor.window(places); }, y);
    tensor = {};
  }
}

void ExpertPass::run(Range experts, Tensor& y) const {
  const Index routed = layer.moe ? layer.moe->routing.experts : 0;
  Index first = experts.begin;
  while (!one_after_the_other(std::min(experts.end, routed) - first)) {
    const std::vector<Index> some = first_of(*this, {first, std::min(experts.end, routed)});
    add_down(hidden(some), y);
    first += std::ssize(some);
  }
  for (; first < experts.end; ++first) {
    const TokenList& list = tokens(first);
    if (list.size() == 0) continue;
    const GateUp weights_of(layer.mlp(first), weights);
    add_pieces(
        *this, first, [&](Range places) { return weights_of.hidden(normed, list.rows_at(places)); },
        y);
  }
}

}  // namespace aq
