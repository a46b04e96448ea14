#include "aq/forward/expert_pass.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/plan/experts_together.h"
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

std::vector<Index> numbers_of(const ByExpert& tensors) {
  std::vector<Index> numbers;
  for (const auto& [expert, tensor] : tensors) numbers.push_back(expert);
  return numbers;
}

/// The first of `experts` that are worked on at one time: one a thread, and few enough rows.
std::span<const Index> first_of(const ExpertPass& pass, std::span<const Index> experts) {
  const Index count = std::min<Index>(thread_count(), std::ssize(experts));
  const Index tokens = pass.batch.rows();
  const auto& moe = pass.layer.moe;
  const Index most =
      moe ? most_rows_together(count, moe->routing.experts, moe->routing.top_k, tokens)
          : most_rows_together(count, 1, 1, tokens);
  Index taken = 0, rows = 0;
  for (; taken < count; ++taken) {
    rows += pass.tokens(experts[taken]).size();
    if (taken > 0 && rows > most) break;
  }
  return experts.first(taken);
}

ByExpert take_first(const ExpertPass& pass, ByExpert& hidden) {
  ByExpert first;
  const std::vector<Index> experts = numbers_of(hidden);
  for (const Index expert : first_of(pass, experts)) first.insert(hidden.extract(expert));
  return first;
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
  Tensor out(list.size(), gate.weight.rows(), gate.weight.kind(), Storage::offload);
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
  while (!one_after_the_other(std::ssize(hidden), thread_count()))
    add(outputs(take_first(*this, hidden)), y);
  for (auto& one : hidden) {
    Tensor& tensor = one.second;
    add_pieces(
        *this, one.first, [&](Range places) { return tensor.window(places); }, y);
    tensor = {};
  }
}

void ExpertPass::run(Range experts, Tensor& y) const {
  const Index routed = std::min(experts.end, layer.moe ? layer.moe->routing.experts : 0);
  std::vector<Index> numbers(std::max<Index>(0, routed - experts.begin));
  std::iota(numbers.begin(), numbers.end(), experts.begin);
  std::span<const Index> rest = numbers;
  while (!one_after_the_other(std::ssize(rest), thread_count())) {
    const std::span<const Index> some = first_of(*this, rest);
    add_down(hidden(some), y);
    rest = rest.subspan(some.size());
  }
  for (Index expert = std::max(routed, experts.begin) - std::ssize(rest); expert < experts.end;
       ++expert) {
    const TokenList& list = tokens(expert);
    if (list.size() == 0) continue;
    const GateUp weights_of(layer.mlp(expert), weights);
    add_pieces(
        *this, expert,
        [&](Range places) { return weights_of.hidden(normed, list.rows_at(places)); }, y);
  }
}

}  // namespace aq
