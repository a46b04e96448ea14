#pragma once
/// What attention and its gradient have in common: one head and one tile of queries at a time.

#include <array>
#include <optional>

#include "aq/runtime/pieces.h"
#include "aq/runtime/workspace.h"

namespace aq::runtime {

/// One query head with the key and value head that serve it: q and k [t, head_dim], v [t,
/// value_dim].
struct AttentionHead {
  MatrixView<const float> q, k, v;
  Index window = 0;
  float scale = 1;
  std::optional<float> sink;
};

/// Query head `h` of prepared q, k and v.
AttentionHead make_head(const AttentionSpec& spec, std::span<const float> sinks, Index h,
                        MatrixView<const float> q, MatrixView<const float> k,
                        MatrixView<const float> v);

/// The keys that queries [first, first + rows) see.
Range keys_of(const AttentionHead& head, Index first, Index rows);

/// scores [rows, keys] of queries from `first` on against keys `range`: exp(score - largest) where
/// a query sees a key, else 0. @return what to divide each row by
std::array<float, kQueryTile> exponentials(MatrixView<float> scores, const AttentionHead& head,
                                           Index first, Range range);

/// Norm, clamp and rotary embedding, in this order.
void prepare(const AttentionSpec& spec, const AttentionVectors& vectors, MatrixView<float> q,
             MatrixView<float> k, MatrixView<float> v);
/// The first of them: of each row, or of each head of each row.
void normalize(const AttentionSpec& spec, std::span<const float> weight, MatrixView<float> x);

void check_attention(const AttentionSpec& spec, const AttentionVectors& vectors,
                     MatrixView<const float> q, MatrixView<const float> k,
                     MatrixView<const float> v, MatrixView<const float> out);

}  // namespace aq::runtime
