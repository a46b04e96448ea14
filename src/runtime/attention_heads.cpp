#include "runtime/attention_heads.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "aq/core/error.h"
#include "runtime/rope.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

Range keys_of(Index query, Index window) {
  return {window > 0 ? std::max<Index>(0, query - window + 1) : 0, query + 1};
}

/// exp(sink - scale * largest), whose exponent is a difference of near numbers.
float sink_term(double sink, double scale, double largest) {
  return static_cast<float>(std::exp(sink - scale * largest));
}

void clip(double limit, MatrixView<float> x) {
  for (Index t = 0; t < x.rows; ++t) clamp(x.row(t).data(), static_cast<float>(limit), x.columns);
}

void check_vectors(const AttentionSpec& spec, const AttentionVectors& vectors) {
  Index q_norm = 0;
  Index k_norm = 0;
  if (spec.qk_norm == QkNorm::projection) {
    q_norm = spec.q_width();
    k_norm = spec.k_width();
  } else if (spec.qk_norm == QkNorm::head) {
    q_norm = k_norm = spec.head_dim;
  }
  AQ_CHECK(std::ssize(vectors.q_norm) == q_norm, "q_norm ", vectors.q_norm.size());
  AQ_CHECK(std::ssize(vectors.k_norm) == k_norm, "k_norm ", vectors.k_norm.size());
  AQ_CHECK(vectors.sinks.empty() || std::ssize(vectors.sinks) == spec.heads, "sinks ",
           vectors.sinks.size());
}

void check_shapes(const AttentionSpec& spec, MatrixView<const float> q, MatrixView<const float> k,
                  MatrixView<const float> v, MatrixView<const float> out) {
  AQ_CHECK(spec.heads > 0 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0, "heads ",
           spec.heads, ", kv heads ", spec.kv_heads);
  AQ_CHECK(spec.head_dim > 0 && spec.value_dim > 0, "head_dim ", spec.head_dim, ", value_dim ",
           spec.value_dim);
  AQ_CHECK(spec.scale > 0, "scale ", spec.scale);
  AQ_CHECK(k.rows == q.rows && v.rows == q.rows && out.rows == q.rows, "tokens of q ", q.rows,
           ", k ", k.rows, ", v ", v.rows, ", out ", out.rows);
  AQ_CHECK(q.columns == spec.q_width() && out.columns == spec.out_width(), "q ", q.columns,
           ", out ", out.columns);
  AQ_CHECK(k.columns == spec.k_width() && v.columns == spec.v_width(), "k ", k.columns, ", v ",
           v.columns);
}

}  // namespace

AttentionHead make_head(const AttentionSpec& spec, std::span<const float> sinks, Index h,
                        MatrixView<const float> q, MatrixView<const float> k,
                        MatrixView<const float> v) {
  const Index kv = h / (spec.heads / spec.kv_heads);
  AttentionHead head;
  head.q = q.slice_columns(h * spec.head_dim, spec.head_dim);
  head.k = k.slice_columns(kv * spec.head_dim, spec.head_dim);
  head.v = v.slice_columns(kv * spec.value_dim, spec.value_dim);
  head.window = spec.sliding_window;
  head.scale = static_cast<float>(spec.scale);
  if (!sinks.empty()) head.sink = sinks[h];
  return head;
}

Range keys_of(const AttentionHead& head, Index first, Index rows) {
  return {keys_of(first, head.window).begin, first + rows};
}

std::array<float, kQueryTile> exponentials(MatrixView<float> scores, const AttentionHead& head,
                                           Index first, Range range) {
  std::array<float, kQueryTile> sums;
  for (Index i = 0; i < scores.rows; ++i) {
    const Range seen = keys_of(first + i, head.window);
    float* row = scores.row(i).data();
    float* begin = row + (seen.begin - range.begin);
    float* end = row + (seen.end - range.begin);
    std::fill(row, begin, 0.0F);
    std::fill(end, row + scores.columns, 0.0F);
    const Index count = seen.end - seen.begin;
    float largest = largest_of(begin, count);
    if (head.sink) largest = std::max(largest, *head.sink / head.scale);
    sums[i] = exponentiate(begin, head.scale, largest, count);
    if (head.sink) sums[i] += sink_term(*head.sink, head.scale, largest);
  }
  return sums;
}

void normalize(const AttentionSpec& spec, std::span<const float> weight, MatrixView<float> x) {
  const Index width = std::ssize(weight);
  for (Index begin = 0; begin < x.columns; begin += width) {
    const MatrixView<float> part = x.slice_columns(begin, width);
    rms_norm(part, weight, spec.norm_eps, part);
  }
}

void prepare(const AttentionSpec& spec, const AttentionVectors& vectors, MatrixView<float> q,
             MatrixView<float> k, MatrixView<float> v) {
  if (spec.qk_norm != QkNorm::none) {
    normalize(spec, vectors.q_norm, q);
    normalize(spec, vectors.k_norm, k);
  }
  if (spec.clip_qkv)
    for (const MatrixView<float>& x : {q, k, v}) clip(*spec.clip_qkv, x);
  if (spec.rope.dims == 0) return;
  const auto table = rope_table(spec.rope, q.rows);
  rotate(*table, spec.head_dim, q);
  rotate(*table, spec.head_dim, k);
}

void check_attention(const AttentionSpec& spec, const AttentionVectors& vectors,
                     MatrixView<const float> q, MatrixView<const float> k,
                     MatrixView<const float> v, MatrixView<const float> out) {
  check_shapes(spec, q, k, v, out);
  check_vectors(spec, vectors);
}

}  // namespace aq::runtime
