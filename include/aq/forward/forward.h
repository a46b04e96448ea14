#pragma once
/// One decoder layer over all tokens of a rank, in pieces, so that the caller can quantize between
/// them. The unit of every call is a sequence or an expert's tokens of one lane: what a piece
/// computes depends on the lane alone, never on ranks or threads.

#include <functional>
#include <map>

#include "aq/forward/batch.h"
#include "aq/forward/weights.h"
#include "aq/model/model.h"

namespace aq {

/// The tokens of one expert on this rank, lane after lane.
struct TokenList {
  std::vector<std::int32_t> rows;   ///< rows of the activations, ascending
  std::vector<float> weights;       ///< factor of the expert's output for each row
  std::vector<Index> lane_offsets;  ///< [lanes + 1] into rows

  Index size() const { return static_cast<Index>(rows.size()); }
  Range lane(Index number) const {
    return {lane_offsets[static_cast<std::size_t>(number)],
            lane_offsets[static_cast<std::size_t>(number) + 1]};
  }
  std::span<const std::int32_t> rows_of_lane(Index number) const;
  std::span<const float> weights_of_lane(Index number) const;
};

/// Which tokens go to which expert. A dense MLP is one expert with every token at weight 1.
struct Routing {
  std::vector<TokenList> experts;   ///< the routed ones, behind them the shared one
  std::vector<std::int32_t> index;  ///< [rows, top_k] by falling weight; empty for a dense MLP
  std::vector<float> weight;        ///< [rows, top_k]
};

/// Tokens of this rank that each routed expert of the layer gets; empty for a dense MLP.
std::vector<std::int64_t> routed_tokens(const LayerSpec& layer, const Routing& routing);

/// Every token of this rank with weight 1.
TokenList all_tokens(const Batch& batch);

Matrix embed_tokens(const Weights& weights, const Batch& batch);
/// norm(x), row by row; `norm` is the name of its weight.
Matrix normalized(const Model& model, const Weights& weights, const std::string& norm,
                  const Matrix& x, const Batch& batch);
/// The experts of every token, shared ones included; `normed` = norm(x).
Routing route_tokens(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                     const Matrix& normed);
/// Experts on threads; few experts one after the other, with threads for the lanes of each.
/// `busy`: those that have anything to do here.
void for_each_expert(std::span<const Index> busy, const std::function<void(Index)>& work);

/// gate and up of one MLP as they are run.
struct GateUp {
  UsedLinear gate, up;
  GatedActivation activation;
};
GateUp gate_up_weights(const MlpSpec& mlp, const Weights& weights);
/// activation(gate(x), up(x)) for the given rows of `normed`: `[rows.size(), width]`.
Matrix hidden_of(const GateUp& weights, const Matrix& normed, std::span<const std::int32_t> rows);
/// hidden_of for a whole list, lane by lane.
Matrix hidden_of_list(const GateUp& weights, const Matrix& normed, const TokenList& list,
                      const Batch& batch);
/// y[row] += weight * down(hidden) for the experts [experts.begin, experts.end) in ascending order;
/// hidden[i] belongs to expert experts.begin + i.
void add_down(const LayerSpec& layer, const Weights& weights, const Batch& batch,
              const Routing& routing, Range experts, const std::vector<Matrix>& hidden, Matrix& y);

/// down(hidden) of each of `experts` for the tokens of its list; hidden[i] is of experts[i].
std::vector<Matrix> run_down(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                             const Routing& routing, std::span<const Index> experts,
                             std::vector<Matrix> hidden);
/// y[row] += weight * output of its experts in ascending order; outputs by expert.
void add_outputs(const Batch& batch, const Routing& routing,
                 const std::map<Index, const Matrix*>& outputs, Matrix& y);

/// activation(gate(x), up(x)) of each of `experts` for the tokens of its list.
std::vector<Matrix> hidden_of_experts(const LayerSpec& layer, const Weights& weights,
                                      const Batch& batch, const Matrix& normed,
                                      const Routing& routing, std::span<const Index> experts);

/// Where the weights of routed experts are.
struct ExpertHomes {
  Communicator& comm;
  const LaneLayout& lanes;
  std::vector<Range> waves;  ///< routed experts whose tokens travel at one time ...
  Index most_rows = 0;       ///< ... unless an owner would get more rows than these; 0: any number
  /// The rank of each routed expert, or kEverywhere, from the tokens of each on all ranks. Called
  /// on every rank before their weights are used.
  std::function<std::vector<int>(std::span<const std::int64_t> tokens)> owners;
};

/// The whole layer with the weights as they are: x becomes the next layer's input. The routing is
/// returned for whoever wants to look at it. Without homes all experts are everywhere; with them
/// collective.
Routing forward_layer(const Model& model, const LayerSpec& layer, const Weights& weights,
                      const Batch& batch, Matrix& x, const ExpertHomes* homes = nullptr);

/// x += y. Notes what is not finite (finite.h), as all pieces of a layer do.
void add_matrix(const Matrix& y, Matrix& x);

}  // namespace aq
