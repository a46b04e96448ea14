/// Gradients of attention beside differences of the slow forward pass in double precision.

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "aq/runtime/pieces.h"
#include "aq/runtime/workspace.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::plain_attention;
using reference::random_matrix;
using reference::Rows;
using reference::to_rows;

struct Case {
  AttentionSpec spec;
  Index tokens = 7;
  FloatArray q_norm = {}, k_norm = {}, sinks = {};
  Matrix q, k, v, gradient;

  explicit Case(const AttentionSpec& of, Index count = 7)
      : spec(of),
        tokens(count),
        q(random_matrix(count, of.q_width(), 1)),
        k(random_matrix(count, of.k_width(), 2)),
        v(random_matrix(count, of.v_width(), 3)),
        gradient(random_matrix(count, of.out_width(), 4)) {
    if (spec.qk_norm == QkNorm::none) return;
    const bool heads = spec.qk_norm == QkNorm::head;
    q_norm = random_matrix(1, heads ? spec.head_dim : spec.q_width(), 5).values;
    k_norm = random_matrix(1, heads ? spec.head_dim : spec.k_width(), 6).values;
  }

  AttentionVectors vectors() const { return {q_norm, k_norm, sinks}; }

  /// Σ gradient * attention(q, k, v).
  double value(const std::array<Rows, 3>& inputs) const {
    const Rows out = reference::attention(spec, vectors(), inputs[0], inputs[1], inputs[2]);
    double sum = 0;
    for (Index t = 0; t < tokens; ++t)
      for (Index c = 0; c < gradient.columns; ++c) sum += gradient(t, c) * out[t][c];
    return sum;
  }

  /// The largest error of q's, k's and v's gradients at tokens 0, step, 2 step.. and columns
  /// likewise, relative to the largest of each.
  double error(Index step = 1) const {
    Matrix dq = q, dk = k, dv = v;
    attention_gradient(spec, vectors(), dq.view(), dk.view(), dv.view(), gradient.view());
    std::array<Rows, 3> inputs = {to_rows(q.view()), to_rows(k.view()), to_rows(v.view())};
    double worst = 0;
    for (std::size_t which = 0; which < 3; ++which) {
      const Matrix& got = which == 0 ? dq : which == 1 ? dk : dv;
      double largest = 1e-3, off = 0;
      for (Index t = 0; t < tokens; t += step)
        for (Index c = 0; c < got.columns; c += step) {
          constexpr double kStep = 1e-5;
          double& at = inputs[which][t][c];
          const double there = at;
          at = there + kStep;
          const double above = value(inputs);
          at = there - kStep;
          const double below = value(inputs);
          at = there;
          const double expected = (above - below) / (2 * kStep);
          largest = std::max(largest, std::abs(expected));
          off = std::max(off, std::abs(expected - got(t, c)));
        }
      worst = std::max(worst, off / largest);
    }
    return worst;
  }
};

TEST(AttentionGradient, OfHeadsThatShareKeys) {
  for (const auto& [heads, kv_heads] : {std::array<Index, 2>{1, 1}, {4, 4}, {4, 2}, {6, 1}})
    EXPECT_LT(Case(plain_attention(heads, kv_heads, 8)).error(), 1e-5) << heads << ", " << kv_heads;
}

TEST(AttentionGradient, OfNormsAndClamp) {
  for (const QkNorm norm : {QkNorm::none, QkNorm::projection, QkNorm::head})
    for (const double limit : {0.0, 0.7}) {
      AttentionSpec spec = plain_attention(4, 2, 8);
      spec.norm_eps = 1e-3;
      spec.qk_norm = norm;
      if (limit > 0) spec.clip_qkv = limit;
      EXPECT_LT(Case(spec).error(), 1e-5) << static_cast<int>(norm) << ", " << limit;
    }
}

TEST(AttentionGradient, OfRotations) {
  for (const bool interleaved : {false, true})
    for (const auto& [begin, dims] : {std::array<Index, 2>{0, 8}, {4, 4}, {0, 4}, {0, 0}}) {
      AttentionSpec spec = plain_attention(2, 2, 8);
      spec.rope.begin = begin;
      spec.rope.dims = dims;
      spec.rope.interleaved = interleaved;
      spec.rope.magnitude = 1.25;
      EXPECT_LT(Case(spec).error(), 1e-5) << interleaved << ", " << begin << ", " << dims;
    }
}

TEST(AttentionGradient, OfWindowsSinksAndOtherWidths) {
  AttentionSpec spec = plain_attention(4, 2, 8);
  spec.value_dim = 5;
  spec.scale = 0.2;
  for (const Index window : {0, 1, 3}) {
    spec.sliding_window = window;
    Case with(spec);
    EXPECT_LT(with.error(), 1e-5) << window;
    with.sinks = {-1, 0, 0.5, 2};
    EXPECT_LT(with.error(), 1e-5) << window << " with sinks";
  }
}

TEST(AttentionGradient, AroundTheTile) {
  AttentionSpec spec = plain_attention(2, 1, 4);
  for (const Index tokens : {Index{1}, kQueryTile, kQueryTile + 1})
    for (const Index window : {0, 100}) {
      spec.sliding_window = window;
      EXPECT_LT(Case(spec, tokens).error(97), 1e-5) << tokens << ", " << window;
    }
}

/// What expand_latent copies from kv comes back to it; the shared key is no part of it.
TEST(AttentionGradient, OfLatents) {
  AttentionSpec spec = plain_attention(3, 3, 6);
  spec.value_dim = 5;
  const Index shared = 2, tokens = 4;
  const Matrix kv = random_matrix(tokens, 3 * (4 + 5), 1), key = random_matrix(tokens, shared, 2);
  Matrix k(tokens, spec.k_width()), v(tokens, spec.v_width());
  expand_latent(spec, kv.view(), key.view(), k.view(), v.view());
  Matrix back(tokens, kv.columns);
  expand_latent_gradient(spec, k.view(), v.view(), back.view());
  EXPECT_EQ(back.values, kv.values);
}

}  // namespace
}  // namespace aq::runtime
