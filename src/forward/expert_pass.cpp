#include "aq/forward/expert_pass.h"

#include <algorithm>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"
#include "forward/expert_threads.h"

namespace aq {
namespace {

/// out = down(hidden) of one expert, lane by lane.
Tensor down_of(const ExpertPass& pass, Index expert, const Tensor& hidden) {
  const UsedLinear down = pass.weights.used(pass.layer.mlp(expert).down);
  Tensor out(hidden.rows(), down.weight.rows(), hidden.kind());
  runtime::for_each_range(pass.tokens(expert).lanes(), [&](Index, Range rows) {
    SharedInput(hidden.window(rows)).multiply(down, out.window(rows));
    note_finite(ForwardPart::gate_up, hidden.window(rows), expert);
    note_finite(ForwardPart::down, out.window(rows), expert);
  });
  return out;
}

std::vector<Index> numbers_of(const ByExpert& tensors) {
  std::vector<Index> numbers;
  for (const auto& [expert, tensor] : tensors) numbers.push_back(expert);
  return numbers;
}

/// Takes the first experts out of `hidden`: one a thread, and together at most twice the rows that
/// an even routing gives them, or every token once. These are the outputs that are kept at one
/// time.
ByExpert take_some(const ExpertPass& pass, ByExpert& hidden) {
  const Index most = std::min<Index>(thread_count(), std::ssize(hidden));
  const Index tokens = pass.batch.rows();
  const auto& moe = pass.layer.moe;
  const Index even = moe ? most * moe->routing.top_k * tokens / moe->routing.experts : tokens;
  ByExpert some;
  Index rows = 0;
  while (std::ssize(some) < most) {
    rows += hidden.begin()->second.rows();
    if (!some.empty() && rows > std::max(tokens, 2 * even)) break;
    some.insert(hidden.extract(hidden.begin()));
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
  Tensor out(list.size(), gate.weight.rows(), normed.kind());
  runtime::for_each_range(list.lanes(), [&](Index lane, Range rows) {
    runtime::copy(hidden(normed, list.rows_of_lane(lane)), out.window(rows));
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
      runtime::add_weighted(output.window(list.lane(lane)), list.rows_of_lane(lane),
                            list.weights_of_lane(lane), y);
    }
  });
}

void ExpertPass::add_down(ByExpert hidden, Tensor& y) const {
  while (!hidden.empty()) add(outputs(take_some(*this, hidden)), y);
}

void ExpertPass::run(Range experts, Tensor& y) const {
  for (Index first = experts.begin; first < experts.end; first += thread_count()) {
    std::vector<Index> some(std::min<Index>(thread_count(), experts.end - first));
    std::iota(some.begin(), some.end(), first);
    add_down(hidden(some), y);
  }
}

}  // namespace aq
