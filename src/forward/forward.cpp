#include "aq/forward/forward.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "aq/core/parallel.h"
#include "aq/forward/attention.h"
#include "aq/forward/expert_outputs.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/pieces.h"

namespace aq {
namespace {

MatrixView<const float> rows_of(const Matrix& matrix, Range rows) {
  return matrix.view().slice_rows(rows.begin, rows.size());
}
MatrixView<float> rows_of(Matrix& matrix, Range rows) {
  return matrix.view().slice_rows(rows.begin, rows.size());
}

/// Fills the lists of all experts from the choices of every token, lane by lane.
void fill_lists(const Batch& batch, Index top_k, Routing& routing) {
  for (TokenList& list : routing.experts) list.lane_offsets.push_back(0);
  for (Index lane = 0; lane < batch.lanes(); ++lane) {
    const Range rows = batch.rows_of_lane(lane);
    for (Index row = rows.begin; row < rows.end; ++row)
      for (Index k = 0; k < top_k; ++k) {
        const auto at = static_cast<std::size_t>(row * top_k + k);
        TokenList& list = routing.experts[static_cast<std::size_t>(routing.index[at])];
        list.rows.push_back(checked_cast<std::int32_t>(row));
        list.weights.push_back(routing.weight[at]);
      }
    for (TokenList& list : routing.experts) list.lane_offsets.push_back(list.size());
  }
}

/// Gives tokens without a choice to all experts in turn, none of them more than an even share.
void spread_evenly(Range rows, Index top_k, Routing& routing) {
  const auto experts = std::ssize(routing.experts);
  for (Index at = rows.begin * top_k; at < rows.end * top_k; ++at)
    routing.index[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(at % experts);
}

/// Every token, with the factor that the MLP's output gets.
TokenList tokens_of_mlp(const MlpSpec& mlp, const Weights& weights, const Batch& batch,
                        const Matrix& normed) {
  TokenList list = all_tokens(batch);
  if (!mlp.output_gate || batch.rows() == 0) return list;
  const UsedLinear gate = weights.used(*mlp.output_gate);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    const MatrixView<float> factors(list.weights.data() + rows.begin, rows.size(), 1);
    SharedInput(rows_of(normed, rows)).multiply(gate, factors);
    runtime::apply_sigmoid(factors);
    note_finite(ForwardPart::router, factors);
  });
  return list;
}

/// The tokens of the routed experts.
Routing choose_experts(const MoeSpec& moe, const Weights& weights, const Batch& batch,
                       const Matrix& normed) {
  const Index top_k = moe.routing.top_k;
  Routing routing;
  routing.experts.resize(static_cast<std::size_t>(moe.routing.experts));
  routing.index.resize(static_cast<std::size_t>(batch.rows() * top_k));
  routing.weight.resize(routing.index.size());
  const UsedLinear router = weights.used(moe.router);
  std::vector<float> correction;
  if (!moe.correction_bias.empty())
    correction = weights.vector(moe.correction_bias, moe.routing.experts);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    Matrix logits(rows.size(), moe.routing.experts);
    SharedInput(rows_of(normed, rows)).multiply(router, logits.view());
    if (!note_finite(ForwardPart::router, logits.view()))
      return spread_evenly(rows, top_k, routing);
    runtime::route(moe.routing, logits.view(), correction,
                   {routing.index.data() + rows.begin * top_k, rows.size(), top_k},
                   {routing.weight.data() + rows.begin * top_k, rows.size(), top_k});
  });
  fill_lists(batch, top_k, routing);
  return routing;
}

/// out = down(hidden) of one expert, lane by lane.
Matrix down_of_list(const LayerSpec& layer, Index expert, const Weights& weights,
                    const TokenList& list, const Batch& batch, const Matrix& hidden) {
  const LinearSpec& down = layer.mlp(expert).down;
  const UsedLinear used = weights.used(down);
  Matrix out(list.size(), down.rows);
  parallel_for(batch.lanes(), [&](Index lane) {
    const Range rows = list.lane(lane);
    if (rows.size() == 0) return;
    const MatrixView<float> result = rows_of(out, rows);
    SharedInput(rows_of(hidden, rows)).multiply(used, result);
    note_finite(ForwardPart::gate_up, rows_of(hidden, rows), expert);
    note_finite(ForwardPart::down, result, expert);
  });
  return out;
}

/// Places in `experts` of those that have tokens here.
std::vector<Index> with_tokens(const Routing& routing, std::span<const Index> experts) {
  std::vector<Index> places;
  for (Index i = 0; i < std::ssize(experts); ++i) {
    const Index expert = experts[static_cast<std::size_t>(i)];
    if (routing.experts[static_cast<std::size_t>(expert)].size() > 0) places.push_back(i);
  }
  return places;
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

}  // namespace

void for_each_expert(std::span<const Index> busy, const std::function<void(Index)>& work) {
  if (std::ssize(busy) >= thread_count())
    return parallel_for(std::ssize(busy),
                        [&](Index i) { work(busy[static_cast<std::size_t>(i)]); });
  for (const Index expert : busy) work(expert);
}

std::span<const std::int32_t> TokenList::rows_of_lane(Index number) const {
  const Range range = lane(number);
  return std::span(rows).subspan(static_cast<std::size_t>(range.begin),
                                 static_cast<std::size_t>(range.size()));
}

std::span<const float> TokenList::weights_of_lane(Index number) const {
  const Range range = lane(number);
  return std::span(weights).subspan(static_cast<std::size_t>(range.begin),
                                    static_cast<std::size_t>(range.size()));
}

std::vector<std::int64_t> routed_tokens(const LayerSpec& layer, const Routing& routing) {
  std::vector<std::int64_t> counts;
  for (std::size_t number = 0; number < layer.mlps.size(); ++number)
    if (layer.mlps[number].kind == MlpKind::routed)
      counts.push_back(routing.experts[number].size());
  return counts;
}

TokenList all_tokens(const Batch& batch) {
  TokenList list;
  list.lane_offsets.push_back(0);
  for (Index lane = 0; lane < batch.lanes(); ++lane) {
    const Range rows = batch.rows_of_lane(lane);
    for (Index row = rows.begin; row < rows.end; ++row)
      list.rows.push_back(checked_cast<std::int32_t>(row));
    list.lane_offsets.push_back(list.size());
  }
  list.weights.assign(list.rows.size(), 1.0f);
  return list;
}

Matrix embed_tokens(const Weights& weights, const Batch& batch) {
  return weights.embeddings(batch.sequences.tokens);
}

Matrix normalized(const Model& model, const Weights& weights, const std::string& norm,
                  const Matrix& x, const Batch& batch) {
  const std::vector<float> scale = weights.vector(norm, model.hidden);
  Matrix out(x.rows, x.columns);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    runtime::rms_norm(rows_of(x, rows), scale, model.norm_eps, rows_of(out, rows));
  });
  return out;
}

Routing route_tokens(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                     const Matrix& normed) {
  Routing routing;
  if (layer.moe) routing = choose_experts(*layer.moe, weights, batch, normed);
  for (const MlpSpec& mlp : layer.mlps)
    if (mlp.kind != MlpKind::routed)
      routing.experts.push_back(tokens_of_mlp(mlp, weights, batch, normed));
  return routing;
}

GateUp gate_up_weights(const MlpSpec& mlp, const Weights& weights) {
  return {weights.used(mlp.gate), weights.used(mlp.up), mlp.activation};
}

Matrix hidden_of(const GateUp& weights, const Matrix& normed, std::span<const std::int32_t> rows) {
  const auto count = static_cast<Index>(rows.size());
  Matrix input(count, normed.columns), gate(count, weights.gate.weight.rows),
      up(count, weights.up.weight.rows);
  for (Index i = 0; i < count; ++i)
    std::memcpy(input.view().row(i).data(),
                normed.view().row(rows[static_cast<std::size_t>(i)]).data(),
                static_cast<std::size_t>(normed.columns) * sizeof(float));
  SharedInput shared(input.view());
  shared.multiply(weights.gate, gate.view());
  shared.multiply(weights.up, up.view());
  runtime::gated_activation(weights.activation, gate.view(), up.view());
  return gate;
}

Matrix hidden_of_list(const GateUp& weights, const Matrix& normed, const TokenList& list,
                      const Batch& batch) {
  Matrix hidden(list.size(), weights.gate.weight.rows);
  parallel_for(batch.lanes(), [&](Index lane) {
    const Range range = list.lane(lane);
    if (range.size() == 0) return;
    const Matrix part = hidden_of(weights, normed, list.rows_of_lane(lane));
    std::memcpy(hidden.view().row(range.begin).data(), part.values.data(),
                part.values.size() * sizeof(float));
  });
  return hidden;
}

namespace {

/// Experts from `first` on whose outputs are kept at one time: one a thread, and together twice the
/// rows that an even routing gives them, or every token once.
Index experts_at_once(const Routing& routing, const LayerSpec& layer, Range experts, Index tokens) {
  const Index most = std::min<Index>(thread_count(), experts.size());
  const Index even =
      layer.moe ? most * layer.moe->routing.top_k * tokens / layer.moe->routing.experts : tokens;
  Index count = 0, rows = 0;
  while (count < most) {
    rows += routing.experts[static_cast<std::size_t>(experts.begin + count)].size();
    if (count > 0 && rows > std::max(tokens, 2 * even)) break;
    ++count;
  }
  return count;
}

}  // namespace

void add_down(const LayerSpec& layer, const Weights& weights, const Batch& batch,
              const Routing& routing, Range experts, const std::vector<Matrix>& hidden, Matrix& y) {
  for (Index first = experts.begin, count = 0; first < experts.end; first += count) {
    count = experts_at_once(routing, layer, {first, experts.end}, batch.rows());
    std::vector<Matrix> outputs(static_cast<std::size_t>(count));
    std::vector<Index> some(static_cast<std::size_t>(count));
    std::iota(some.begin(), some.end(), first);
    for_each_expert(with_tokens(routing, some), [&](Index i) {
      outputs[static_cast<std::size_t>(i)] = down_of_list(
          layer, first + i, weights, routing.experts[static_cast<std::size_t>(first + i)], batch,
          hidden[static_cast<std::size_t>(first + i - experts.begin)]);
    });
    parallel_for(batch.lanes(), [&](Index lane) {
      for (Index i = 0; i < count; ++i)
        add_weighted(routing.experts[static_cast<std::size_t>(first + i)], lane,
                     outputs[static_cast<std::size_t>(i)], y);
    });
  }
}

void add_matrix(const Matrix& y, Matrix& x) {
  for (Index row = 0; row < x.rows; ++row) {
    const std::span<const float> from = y.view().row(row);
    const std::span<float> to = x.view().row(row);
    for (std::size_t c = 0; c < to.size(); ++c) to[c] += from[c];
    note_finite(ForwardPart::sum, x.view().slice_rows(row, 1));
  }
}

std::vector<Matrix> run_down(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                             const Routing& routing, std::span<const Index> experts,
                             std::vector<Matrix> hidden) {
  std::vector<Matrix> outputs(experts.size());
  for_each_expert(with_tokens(routing, experts), [&](Index i) {
    const auto at = static_cast<std::size_t>(i);
    const TokenList& list = routing.experts[static_cast<std::size_t>(experts[at])];
    outputs[at] = down_of_list(layer, experts[at], weights, list, batch, hidden[at]);
    hidden[at] = {};
  });
  return outputs;
}

void add_outputs(const Batch& batch, const Routing& routing,
                 const std::map<Index, const Matrix*>& outputs, Matrix& y) {
  parallel_for(batch.lanes(), [&](Index lane) {
    for (const auto& [expert, output] : outputs)
      add_weighted(routing.experts[static_cast<std::size_t>(expert)], lane, *output, y);
  });
}

namespace {

/// y += the outputs of the experts [range.begin, range.end) where their tokens are, few at one
/// time to bound the memory.
void run_experts(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                 const Matrix& normed, const Routing& routing, Range range, Matrix& y) {
  for (Index first = range.begin; first < range.end; first += thread_count()) {
    std::vector<Index> some(
        static_cast<std::size_t>(std::min<Index>(thread_count(), range.end - first)));
    std::iota(some.begin(), some.end(), first);
    add_down(layer, weights, batch, routing, {some.front(), some.back() + 1},
             hidden_of_experts(layer, weights, batch, normed, routing, some), y);
  }
}

}  // namespace

std::vector<Matrix> hidden_of_experts(const LayerSpec& layer, const Weights& weights,
                                      const Batch& batch, const Matrix& normed,
                                      const Routing& routing, std::span<const Index> experts) {
  std::vector<Matrix> hidden(experts.size());
  for_each_expert(with_tokens(routing, experts), [&](Index i) {
    const Index expert = experts[static_cast<std::size_t>(i)];
    hidden[static_cast<std::size_t>(i)] =
        hidden_of_list(gate_up_weights(layer.mlp(expert), weights), normed,
                       routing.experts[static_cast<std::size_t>(expert)], batch);
  });
  return hidden;
}

Routing forward_layer(const Model& model, const LayerSpec& layer, const Weights& weights,
                      const Batch& batch, Matrix& x, const ExpertHomes* homes) {
  run_attention(model, layer, weights, batch, x);
  const Matrix normed = normalized(model, weights, layer.post_attention_norm, x, batch);
  Routing routing = route_tokens(layer, weights, batch, normed);
  Matrix y(x.rows, x.columns);
  Index first = 0;
  if (homes != nullptr && layer.moe) {
    std::vector<std::int64_t> tokens = routed_tokens(layer, routing);
    homes->comm.all_reduce_sum(tokens);
    const std::vector<int> owners = homes->owners(tokens);
    for (const Range& wave : homes->waves)
      for (const Range& part : cut_by_rows(wave, owners, tokens, homes->most_rows))
        run_wave(homes->comm, homes->lanes, owners, {layer, weights, batch, normed, routing}, part,
                 y);
    first = std::ssize(owners);
  }
  run_experts(layer, weights, batch, normed, routing,
              {first, static_cast<Index>(routing.experts.size())}, y);
  add_matrix(y, x);
  return routing;
}

}  // namespace aq
