/// Causal attention of one sequence.

#include <algorithm>

#include "runtime/attention_heads.h"
#include "runtime/products.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// Output of the queries of one head from `first` on.
void attend(const AttentionHead& head, Index first, float* scratch, MatrixView<float> out) {
  const Index rows = out.rows;
  const Range range = keys_of(head, first, rows);
  const Index keys = range.size();
  const MatrixView<float> scores(scratch, rows, keys);
  multiply_transposed(head.q.slice_rows(first, rows), head.k.slice_rows(range.begin, keys), scores);
  const std::array<float, kQueryTile> sums = exponentials(scores, head, first, range);
  multiply(scores, head.v.slice_rows(range.begin, keys), out);
  for (Index i = 0; i < rows; ++i) scale(out.row(i).data(), 1.0F / sums[i], out.columns);
}

}  // namespace

void attention(const AttentionSpec& spec, const AttentionVectors& vectors, MatrixView<float> q,
               MatrixView<float> k, MatrixView<float> v, MatrixView<float> out) {
  check_attention(spec, vectors, q, k, v, out);
  if (q.rows == 0) return;
  prepare(spec, vectors, q, k, v);
  FloatArray scratch(std::min(q.rows, kQueryTile) * q.rows);
  for (Index h = 0; h < spec.heads; ++h) {
    const AttentionHead head = make_head(spec, vectors.sinks, h, q, k, v);
    const MatrixView<float> to = out.slice_columns(h * spec.value_dim, spec.value_dim);
    for (Index first = 0; first < q.rows; first += kQueryTile)
      attend(head, first, scratch.data(),
             to.slice_rows(first, std::min(kQueryTile, q.rows - first)));
  }
}

}  // namespace aq::runtime
