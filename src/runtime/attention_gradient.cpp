/// Gradients of attention by its inputs (Dao et al. 2022, arXiv 2205.14135, appendix B.2, has the
/// sums): with P the softmax of a query and dP = dO Vᵀ, dS = P (dP - Σ P dP).

#include <algorithm>
#include <cmath>
#include <memory>

#include "runtime/attention_heads.h"
#include "runtime/products.h"
#include "runtime/rope.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// Sums over the query heads that a kv head serves, and memory for one tile of queries.
struct HeadGradients {
  Matrix k, v;
  FloatArray scores, slopes;

  HeadGradients(const AttentionSpec& spec, Index tokens)
      : k(tokens, spec.head_dim),
        v(tokens, spec.value_dim),
        scores(std::min(tokens, kQueryTile) * tokens),
        slopes(scores.size()) {}
};

/// Queries [first, first + rows) of a head, whose q becomes the gradient by it.
void add_tile(const AttentionHead& head, MatrixView<const float> gradient, Index first, Index rows,
              MatrixView<float> q, HeadGradients& sums) {
  const Range range = keys_of(head, first, rows);
  const MatrixView<float> p(sums.scores.data(), rows, range.size());
  const MatrixView<float> slope(sums.slopes.data(), rows, range.size());
  const MatrixView<const float> k = head.k.slice_rows(range.begin, range.size());
  multiply_transposed(head.q.slice_rows(first, rows), k, p);
  const std::array<float, kQueryTile> total = exponentials(p, head, first, range);
  for (Index i = 0; i < rows; ++i) scale(p.row(i).data(), 1.0F / total[i], p.columns);
  const MatrixView<const float> out = gradient.slice_rows(first, rows);
  add_product_of_transposed(p, out, sums.v.view().slice_rows(range.begin, range.size()));
  multiply_transposed(out, head.v.slice_rows(range.begin, range.size()), slope);
  for (Index i = 0; i < rows; ++i)
    softmax_gradient(p.row(i).data(), head.scale, slope.row(i).data(), p.columns);
  const MatrixView<float> tile = q.slice_rows(first, rows);
  add_product_of_transposed(slope, tile, sums.k.view().slice_rows(range.begin, range.size()));
  multiply(slope, k, tile);
}

/// From prepared q, k and v; they become the gradients by them.
void differentiate_heads(const AttentionSpec& spec, std::span<const float> sinks,
                         MatrixView<float> q, MatrixView<float> k, MatrixView<float> v,
                         MatrixView<const float> gradient) {
  HeadGradients sums(spec, q.rows);
  const Index served = spec.heads / spec.kv_heads;
  for (Index kv = 0; kv < spec.kv_heads; ++kv) {
    std::ranges::fill(sums.k.values, 0.0F);
    std::ranges::fill(sums.v.values, 0.0F);
    for (Index h = kv * served; h < (kv + 1) * served; ++h) {
      const AttentionHead head = make_head(spec, sinks, h, q, k, v);
      for (Index first = 0; first < q.rows; first += kQueryTile)
        add_tile(head, gradient.slice_columns(h * spec.value_dim, spec.value_dim), first,
                 std::min(kQueryTile, q.rows - first),
                 q.slice_columns(h * spec.head_dim, spec.head_dim), sums);
    }
    for (Index t = 0; t < q.rows; ++t) {
      std::ranges::copy(sums.k.view().row(t),
                        k.slice_columns(kv * spec.head_dim, spec.head_dim).row(t).begin());
      std::ranges::copy(sums.v.view().row(t),
                        v.slice_columns(kv * spec.value_dim, spec.value_dim).row(t).begin());
    }
  }
}

/// Zero where the clamp held x.
void clip_gradient(double limit, const Matrix& x, MatrixView<float> gradient) {
  const auto most = static_cast<float>(limit);
  for (Index t = 0; t < x.rows; ++t)
    for (Index c = 0; c < x.columns; ++c)
      if (std::abs(x(t, c)) > most) gradient(t, c) = 0;
}

/// Of y = x r w with r = (mean(x²) + eps)^-1/2: dx = r w dy - x r³ mean(w dy x).
void norm_gradient(const AttentionSpec& spec, std::span<const float> weight, const Matrix& x,
                   MatrixView<float> gradient) {
  const Index width = std::ssize(weight);
  for (Index t = 0; t < x.rows; ++t)
    for (Index begin = 0; begin < x.columns; begin += width) {
      const float* value = x.view().row(t).data() + begin;
      float* slope = gradient.row(t).data() + begin;
      const double r =
          1 / std::sqrt(sum_of_squares(value, width) / static_cast<double>(width) + spec.norm_eps);
      double along = 0;
      for (Index i = 0; i < width; ++i)
        along += static_cast<double>(weight[i] * slope[i]) * static_cast<double>(value[i]);
      const auto share = static_cast<float>(r * r * r * along / static_cast<double>(width));
      for (Index i = 0; i < width; ++i)
        slope[i] = static_cast<float>(r) * (weight[i] * slope[i]) - value[i] * share;
    }
}

/// The way back through prepare().
/// @param x  as it came in; no rows where nothing needs it
/// @param weight  of the norm; may be empty
void unprepare(const AttentionSpec& spec, std::span<const float> weight, const Matrix& x,
               MatrixView<float> gradient) {
  if (spec.clip_qkv) {
    Matrix clamped = x;
    if (!weight.empty()) normalize(spec, weight, clamped.view());
    clip_gradient(*spec.clip_qkv, clamped, gradient);
  }
  if (!weight.empty()) norm_gradient(spec, weight, x, gradient);
}

Matrix copy_of(MatrixView<const float> x) {
  Matrix copy = Matrix::uninitialized(x.rows, x.columns);
  for (Index t = 0; t < x.rows; ++t) std::ranges::copy(x.row(t), copy.view().row(t).begin());
  return copy;
}

}  // namespace

void attention_gradient(const AttentionSpec& spec, const AttentionVectors& vectors,
                        MatrixView<float> q, MatrixView<float> k, MatrixView<float> v,
                        MatrixView<const float> gradient) {
  check_attention(spec, vectors, q, k, v, gradient);
  if (q.rows == 0) return;
  Matrix plain_q, plain_k, plain_v;
  if (spec.clip_qkv || spec.qk_norm != QkNorm::none) {
    plain_q = copy_of(q);
    plain_k = copy_of(k);
  }
  if (spec.clip_qkv) plain_v = copy_of(v);
  prepare(spec, vectors, q, k, v);
  differentiate_heads(spec, vectors.sinks, q, k, v, gradient);
  if (spec.rope.dims > 0) {
    const auto table = rope_table(spec.rope, q.rows);
    rotate_back(*table, spec.head_dim, q);
    rotate_back(*table, spec.head_dim, k);
  }
  unprepare(spec, vectors.q_norm, plain_q, q);
  unprepare(spec, vectors.k_norm, plain_k, k);
  unprepare(spec, {}, plain_v, v);
}

}  // namespace aq::runtime
