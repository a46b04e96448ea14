#include "aq/forward/expert_pass.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/pieces.h"
#include "forward/expert_threads.h"
#include "forward/rows.h"

namespace aq {
namespace {

/// out = down(hidden) of one expert, lane by lane.
Matrix down_of(const ExpertPass& pass, Index expert, const Matrix& hidden) {
  const TokenList& list = pass.tokens(expert);
  const UsedLinear down = pass.weights.used(pass.layer.mlp(expert).down);
  Matrix out(list.size(), down.weight.rows);
  parallel_for(pass.batch.lanes(), [&](Index lane) {
    const Range rows = list.lane(lane);
    if (rows.size() == 0) return;
    const MatrixView<float> result = rows_of(out, rows);
    SharedInput(rows_of(hidden, rows)).multiply(down, result);
    note_finite(ForwardPart::gate_up, rows_of(hidden, rows), expert);
    note_finite(ForwardPart::down, result, expert);
  });
  return out;
}

/// y[row] += weight * out for the lane's tokens of one expert.
void add_weighted(const TokenList& list, Index lane, const Matrix& out, Matrix& y) {
  const Range range = list.lane(lane);
  for (Index i = range.begin; i < range.end; ++i) {
    const float weight = list.weights[static_cast<std::size_t>(i)];
    const std::span<const float> from = out.view().row(i);
    const std::span<float> to = y.view().row(list.rows[static_cast<std::size_t>(i)]);
    for (std::size_t c = 0; c < to.size(); ++c) to[c] += weight * from[c];
  }
}

std::vector<Index> numbers_of(const ByExpert& matrices) {
  std::vector<Index> numbers;
  for (const auto& [expert, matrix] : matrices) numbers.push_back(expert);
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
    rows += hidden.begin()->second.rows;
    if (!some.empty() && rows > std::max(tokens, 2 * even)) break;
    some.insert(hidden.extract(hidden.begin()));
  }
  return some;
}

}  // namespace

void for_each_expert(std::span<const Index> busy, const std::function<void(Index)>& work) {
  if (std::ssize(busy) >= thread_count())
    return parallel_for(std::ssize(busy),
                        [&](Index i) { work(busy[static_cast<std::size_t>(i)]); });
  for (const Index expert : busy) work(expert);
}

Matrix GateUp::hidden(const Matrix& normed, std::span<const std::int32_t> rows) const {
  const auto count = static_cast<Index>(rows.size());
  Matrix input(count, normed.columns), out(count, gate.weight.rows), factor(count, up.weight.rows);
  for (Index i = 0; i < count; ++i)
    std::memcpy(input.view().row(i).data(),
                normed.view().row(rows[static_cast<std::size_t>(i)]).data(),
                static_cast<std::size_t>(normed.columns) * sizeof(float));
  SharedInput shared(input.view());
  shared.multiply(gate, out.view());
  shared.multiply(up, factor.view());
  runtime::gated_activation(activation, out.view(), factor.view());
  return out;
}

Matrix GateUp::hidden(const Matrix& normed, const TokenList& list, const Batch& batch) const {
  Matrix out(list.size(), gate.weight.rows);
  parallel_for(batch.lanes(), [&](Index lane) {
    const Range range = list.lane(lane);
    if (range.size() == 0) return;
    const Matrix part = hidden(normed, list.rows_of_lane(lane));
    std::memcpy(out.view().row(range.begin).data(), part.values.data(),
                part.values.size() * sizeof(float));
  });
  return out;
}

ByExpert ExpertPass::hidden(std::span<const Index> experts) const {
  ByExpert made;
  for (const Index expert : experts)
    if (tokens(expert).size() > 0) made[expert];
  for_each_expert(numbers_of(made), [&](Index expert) {
    made.at(expert) = GateUp(layer.mlp(expert), weights).hidden(normed, tokens(expert), batch);
  });
  return made;
}

ByExpert ExpertPass::outputs(ByExpert hidden) const {
  ByExpert made;
  for (const auto& [expert, matrix] : hidden) made[expert];
  for_each_expert(numbers_of(made), [&](Index expert) {
    Matrix& input = hidden.at(expert);
    made.at(expert) = down_of(*this, expert, input);
    input = {};
  });
  return made;
}

void ExpertPass::add(const ByExpert& outputs, Matrix& y) const {
  parallel_for(batch.lanes(), [&](Index lane) {
    for (const auto& [expert, output] : outputs) add_weighted(tokens(expert), lane, output, y);
  });
}

void ExpertPass::add_down(ByExpert hidden, Matrix& y) const {
  while (!hidden.empty()) add(outputs(take_some(*this, hidden)), y);
}

void ExpertPass::run(Range experts, Matrix& y) const {
  for (Index first = experts.begin; first < experts.end; first += thread_count()) {
    std::vector<Index> some(
        static_cast<std::size_t>(std::min<Index>(thread_count(), experts.end - first)));
    std::iota(some.begin(), some.end(), first);
    add_down(hidden(some), y);
  }
}

}  // namespace aq
