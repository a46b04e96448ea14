#include "aq/forward/routing.h"

#include <algorithm>

#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"
#include "aq/runtime/workspace.h"

namespace aq {
namespace {

/// Fills the lists of all experts from the choices of every token, lane by lane.
void fill_lists(const Batch& batch, Index top_k, Routing& routing) {
  for (TokenList& list : routing.experts) list.lane_offsets.push_back(0);
  for (Index lane = 0; lane < batch.lanes(); ++lane) {
    const Range rows = batch.rows_of_lane(lane);
    for (Index row = rows.begin; row < rows.end; ++row)
      for (Index k = 0; k < top_k; ++k) {
        const auto at = static_cast<std::size_t>(row * top_k + k);
        TokenList& list = routing.experts[routing.index[at]];
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
    routing.index[at] = static_cast<std::int32_t>(at % experts);
}

/// Every token of this rank with weight 1.
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

/// Every token, with the factor that the MLP's output gets.
TokenList tokens_of_mlp(const MlpSpec& mlp, const Weights& weights, const Batch& batch,
                        const Tensor& normed) {
  TokenList list = all_tokens(batch);
  if (!mlp.output_gate || batch.rows() == 0) return list;
  const UsedLinear gate = weights.used_exactly(*mlp.output_gate);
  runtime::for_each_range(batch.sequence_rows, [&](Index, Range rows) {
    Tensor factors = SharedInput(normed.window(rows)).multiply(gate);
    runtime::apply_sigmoid(factors.host());
    note_finite(ForwardPart::router, factors);
    for (Index i = 0; i < rows.size(); ++i) list.weights[rows.begin + i] = factors.host()(i, 0);
  });
  return list;
}

/// The tokens of the routed experts.
Routing choose_experts(const MoeSpec& moe, const Weights& weights, const Batch& batch,
                       const Tensor& normed) {
  const Index top_k = moe.routing.top_k;
  Routing routing;
  routing.experts.resize(moe.routing.experts);
  routing.index.resize(batch.rows() * top_k);
  routing.weight.resize(routing.index.size());
  const UsedLinear router = weights.used_exactly(moe.router);
  std::vector<float> correction;
  if (!moe.correction_bias.empty())
    correction = weights.vector(moe.correction_bias, moe.routing.experts);
  runtime::for_each_range(batch.sequence_rows, [&](Index, Range rows) {
    const Tensor logits = SharedInput(normed.window(rows)).multiply(router);
    if (!note_finite(ForwardPart::router, logits)) return spread_evenly(rows, top_k, routing);
    runtime::route(moe.routing, logits.host(), correction,
                   {routing.index.data() + rows.begin * top_k, rows.size(), top_k},
                   {routing.weight.data() + rows.begin * top_k, rows.size(), top_k});
  });
  fill_lists(batch, top_k, routing);
  return routing;
}

}  // namespace

std::vector<Range> pieces_of(Range range) {
  std::vector<Range> pieces;
  for (Index begin = range.begin; begin < range.end; begin += runtime::kProductRows)
    pieces.push_back({begin, std::min(range.end, begin + runtime::kProductRows)});
  return pieces;
}

std::vector<Range> TokenList::pieces() const {
  std::vector<Range> all;
  for (std::size_t i = 0; i + 1 < lane_offsets.size(); ++i)
    for (const Range& piece : pieces_of({lane_offsets[i], lane_offsets[i + 1]}))
      all.push_back(piece);
  return all;
}

std::vector<std::int64_t> routed_tokens(const LayerSpec& layer, const Routing& routing) {
  std::vector<std::int64_t> counts;
  for (std::size_t number = 0; number < layer.mlps.size(); ++number)
    if (layer.mlps[number].kind == MlpKind::routed)
      counts.push_back(routing.experts[number].size());
  return counts;
}

Routing route_tokens(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                     const Tensor& normed) {
  Routing routing;
  if (layer.moe) routing = choose_experts(*layer.moe, weights, batch, normed);
  for (const MlpSpec& mlp : layer.mlps)
    if (mlp.kind != MlpKind::routed)
      routing.experts.push_back(tokens_of_mlp(mlp, weights, batch, normed));
  return routing;
}

}  // namespace aq
