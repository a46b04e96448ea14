#pragma once
/// Which tokens go to which MLP of a layer.

#include <cstdint>
#include <span>
#include <vector>

#include "aq/forward/batch.h"
#include "aq/forward/weights.h"
#include "aq/model/model.h"

namespace aq {

/// `range` in pieces of at most kProductRows, which begin where it begins.
std::vector<Range> pieces_of(Range range);

/// The tokens of one expert on this rank, lane after lane.
struct TokenList {
  std::vector<std::int32_t> rows;   ///< rows of the activations, ascending
  std::vector<float> weights;       ///< factor of the expert's output for each row
  std::vector<Index> lane_offsets;  ///< [lanes + 1] into rows

  Index size() const { return static_cast<Index>(rows.size()); }
  Range lane(Index number) const {
    return {lane_offsets[number], lane_offsets[static_cast<std::size_t>(number) + 1]};
  }
  /// Places in `rows`: what is computed as one product each, lane by lane.
  std::vector<Range> pieces() const;
  std::span<const std::int32_t> rows_at(Range places) const {
    return std::span(rows).subspan(places.begin, places.size());
  }
  std::span<const float> weights_at(Range places) const {
    return std::span(weights).subspan(places.begin, places.size());
  }
};

struct Routing {
  std::vector<TokenList> experts;   ///< of each MLP of the layer, by its number there
  std::vector<std::int32_t> index;  ///< [rows, top_k] by falling weight; empty for a dense MLP
  std::vector<float> weight;        ///< [rows, top_k]
};

/// Tokens of this rank that each routed expert of the layer gets; empty for a dense MLP.
std::vector<std::int64_t> routed_tokens(const LayerSpec& layer, const Routing& routing);

/// The experts of every token, and the tokens of those that take all; `normed` = norm(x).
Routing route_tokens(const LayerSpec& layer, const Weights& weights, const Batch& batch,
                     const Tensor& normed);

}  // namespace aq
