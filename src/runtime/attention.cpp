/// Causal attention of one sequence, one head and one tile of queries at a time.

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/products.h"
#include "runtime/rope.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// Queries of a tile. Its scores are the only large scratch: [kQueryTile, keys].
constexpr Index kQueryTile = 256;

/// Keys [begin, end).
struct KeyRange {
  Index begin = 0;
  Index end = 0;
};
KeyRange keys_of(Index query, Index window) {
  return {window > 0 ? std::max<Index>(0, query - window + 1) : 0, query + 1};
}

/// One query head with the key and value head that serve it, [t, head_dim] each.
struct Head {
  MatrixView<const float> q, k, v;
  MatrixView<float> out;
  Index window = 0;
};

/// scores [rows, keys] of queries `first`.. against keys `range`: exp(score - largest) where a
/// query sees a key, else 0; what to divide each row by in `sums`.
void exponentials(MatrixView<float> scores, const Head& head, Index first, KeyRange range,
                  float* sums) {
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head.q.columns)));
  for (Index i = 0; i < scores.rows; ++i) {
    const KeyRange seen = keys_of(first + i, head.window);
    float* row = scores.row(i).data();
    float* begin = row + (seen.begin - range.begin);
    float* end = row + (seen.end - range.begin);
    std::fill(row, begin, 0.0F);
    std::fill(end, row + scores.columns, 0.0F);
    const Index count = seen.end - seen.begin;
    sums[i] = exponentiate(begin, factor, largest_of(begin, count), count);
  }
}

/// Queries [first, first + rows) of one head.
void attend(const Head& head, Index first, Index rows, float* scratch) {
  const KeyRange range = {keys_of(first, head.window).begin, first + rows};
  const Index keys = range.end - range.begin;
  const MatrixView<float> scores(scratch, rows, keys);
  multiply_transposed(head.q.slice_rows(first, rows), head.k.slice_rows(range.begin, keys), scores);
  std::array<float, kQueryTile> sums;
  exponentials(scores, head, first, range, sums.data());
  const MatrixView<float> out = head.out.slice_rows(first, rows);
  multiply(scores, head.v.slice_rows(range.begin, keys), out);
  for (Index i = 0; i < rows; ++i)
    scale(out.row(i).data(), 1.0F / sums[static_cast<std::size_t>(i)], out.columns);
}

void clip(double limit, MatrixView<float> x) {
  for (Index t = 0; t < x.rows; ++t) clamp(x.row(t).data(), static_cast<float>(limit), x.columns);
}

/// Norm, clamp and rotary embedding, in this order.
void prepare(const AttentionSpec& spec, std::span<const float> q_norm,
             std::span<const float> k_norm, MatrixView<float> q, MatrixView<float> k,
             MatrixView<float> v) {
  if (spec.qk_norm == QkNorm::projection) {
    rms_norm(q, q_norm, spec.norm_eps, q);
    rms_norm(k, k_norm, spec.norm_eps, k);
  }
  if (spec.clip_qkv)
    for (const MatrixView<float>& x : {q, k, v}) clip(*spec.clip_qkv, x);
  const auto table = rope_table(spec.rope, spec.head_dim, q.rows);
  rotate(*table, q);
  rotate(*table, k);
}

void check_shapes(const AttentionSpec& spec, std::span<const float> q_norm,
                  std::span<const float> k_norm, MatrixView<const float> q,
                  MatrixView<const float> k, MatrixView<const float> v,
                  MatrixView<const float> out) {
  AQ_CHECK(spec.heads > 0 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0, "heads ",
           spec.heads, ", kv heads ", spec.kv_heads);
  AQ_CHECK(spec.head_dim > 0 && spec.head_dim % 2 == 0, "head_dim ", spec.head_dim);
  AQ_CHECK(k.rows == q.rows && v.rows == q.rows && out.rows == q.rows, "tokens of q ", q.rows,
           ", k ", k.rows, ", v ", v.rows, ", out ", out.rows);
  const Index width = spec.heads * spec.head_dim;
  const Index kv_width = spec.kv_heads * spec.head_dim;
  AQ_CHECK(q.columns == width && out.columns == width, "q ", q.columns, ", out ", out.columns);
  AQ_CHECK(k.columns == kv_width && v.columns == kv_width, "k ", k.columns, ", v ", v.columns);
  const bool norms = spec.qk_norm == QkNorm::projection;
  AQ_CHECK(std::ssize(q_norm) == (norms ? width : 0), "q_norm ", q_norm.size());
  AQ_CHECK(std::ssize(k_norm) == (norms ? kv_width : 0), "k_norm ", k_norm.size());
}

}  // namespace

Index attention_scratch_bytes(Index tokens) {
  return static_cast<Index>(sizeof(float)) * std::min(tokens, kQueryTile) * tokens;
}

void attention(const AttentionSpec& spec, std::span<const float> q_norm,
               std::span<const float> k_norm, MatrixView<float> q, MatrixView<float> k,
               MatrixView<float> v, MatrixView<float> out) {
  check_shapes(spec, q_norm, k_norm, q, k, v, out);
  if (q.rows == 0) return;
  prepare(spec, q_norm, k_norm, q, k, v);
  const auto scratch = std::make_unique_for_overwrite<float[]>(
      static_cast<std::size_t>(std::min(q.rows, kQueryTile) * q.rows));
  const Index d = spec.head_dim;
  for (Index h = 0; h < spec.heads; ++h) {
    const Index kv = h / (spec.heads / spec.kv_heads) * d;
    const Head head = {q.slice_columns(h * d, d), k.slice_columns(kv, d), v.slice_columns(kv, d),
                       out.slice_columns(h * d, d), spec.sliding_window};
    for (Index first = 0; first < q.rows; first += kQueryTile)
      attend(head, first, std::min(kQueryTile, q.rows - first), scratch.get());
  }
}

}  // namespace aq::runtime
