#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;
using reference::to_rows;

struct Inputs {
  Matrix q, k, v;
  std::vector<float> q_norm, k_norm;
};

Inputs random_inputs(const AttentionSpec& spec, Index tokens, float spread = 1) {
  const Index width = spec.heads * spec.head_dim;
  const Index kv_width = spec.kv_heads * spec.head_dim;
  Inputs inputs = {random_matrix(tokens, width, 1, spread),
                   random_matrix(tokens, kv_width, 2),
                   random_matrix(tokens, kv_width, 3),
                   {},
                   {}};
  if (spec.qk_norm == QkNorm::projection) {
    inputs.q_norm = random_matrix(1, width, 4).values;
    inputs.k_norm = random_matrix(1, kv_width, 5).values;
  }
  return inputs;
}

double error_of(const AttentionSpec& spec, const Inputs& inputs) {
  Inputs work = inputs;
  Matrix out(work.q.rows, work.q.columns);
  out.values.assign(out.values.size(), std::numeric_limits<float>::quiet_NaN());
  attention(spec, work.q_norm, work.k_norm, work.q.view(), work.k.view(), work.v.view(),
            out.view());
  const auto expected =
      reference::attention(spec, inputs.q_norm, inputs.k_norm, to_rows(inputs.q.view()),
                           to_rows(inputs.k.view()), to_rows(inputs.v.view()));
  return reference::difference(out.view(), expected);
}

AttentionSpec make_spec(Index heads, Index kv_heads, Index head_dim) {
  AttentionSpec spec;
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  return spec;
}

/// One head of width 2: position 1 turns by one radian.
/// Scores of query 1: cos(1)/sqrt(2) = 0.3820514 and 1/sqrt(2) = 0.7071068; softmax 0.4194440.
TEST(Attention, ByHand) {
  Matrix q(2, 2);
  q.values = {1, 0, 1, 0};
  Matrix k = q;
  Matrix v(2, 2);
  v.values = {1, 0, 0, 1};
  Matrix out(2, 2);
  attention(make_spec(1, 1, 2), {}, {}, q.view(), k.view(), v.view(), out.view());
  EXPECT_FLOAT_EQ(q(1, 0), 0.54030231F);
  EXPECT_FLOAT_EQ(q(1, 1), 0.84147098F);
  EXPECT_EQ(out(0, 0), 1);
  EXPECT_EQ(out(0, 1), 0);
  EXPECT_NEAR(out(1, 0), 0.419444, 1e-6);
  EXPECT_NEAR(out(1, 1), 0.580556, 1e-6);
}

TEST(Attention, LengthsAroundTheTile) {
  for (const Index tokens : {1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 511, 513, 600}) {
    const AttentionSpec spec = make_spec(4, 2, 16);
    EXPECT_LT(error_of(spec, random_inputs(spec, tokens)), 2e-6) << tokens;
  }
}

TEST(Attention, HeadsAndWidths) {
  const std::vector<AttentionSpec> specs = {make_spec(1, 1, 2),  make_spec(8, 1, 8),
                                            make_spec(8, 2, 10), make_spec(6, 3, 32),
                                            make_spec(2, 2, 64), make_spec(3, 1, 128)};
  for (const AttentionSpec& spec : specs)
    EXPECT_LT(error_of(spec, random_inputs(spec, 70)), 2e-6)
        << spec.heads << " heads, " << spec.kv_heads << " kv, " << spec.head_dim;
}

TEST(Attention, SlidingWindow) {
  AttentionSpec spec = make_spec(2, 1, 16);
  for (const Index tokens : {1, 7, 256, 300, 550})
    for (const Index window : {1, 2, 5, 100, 255, 256, 257, 300, 1000}) {
      spec.sliding_window = window;
      // the angle pos * frequency is rounded to fp32, as in transformers: 3e-5 at position 500
      EXPECT_LT(error_of(spec, random_inputs(spec, tokens)), 1e-5) << tokens << ", " << window;
    }
}

TEST(Attention, NormOfTheWholeProjectionThenClip) {
  AttentionSpec spec = make_spec(4, 2, 16);
  spec.norm_eps = 1e-3;
  for (const bool norm : {false, true})
    for (const double limit : {0.0, 0.3, 2.0}) {
      spec.qk_norm = norm ? QkNorm::projection : QkNorm::none;
      spec.clip_qkv = limit > 0 ? std::optional(limit) : std::nullopt;
      EXPECT_LT(error_of(spec, random_inputs(spec, 40)), 2e-6) << norm << ", " << limit;
    }
}

TEST(Attention, OtherThetas) {
  AttentionSpec spec = make_spec(2, 2, 32);
  for (const double theta : {100.0, 10000.0, 500000.0, 1e6}) {
    spec.rope.theta = theta;
    EXPECT_LT(error_of(spec, random_inputs(spec, 200)), 5e-6) << theta;
  }
}

TEST(Attention, LargeScores) {
  const AttentionSpec spec = make_spec(2, 2, 32);
  EXPECT_LT(error_of(spec, random_inputs(spec, 300, 20)), 1e-4);
}

TEST(Attention, PartsOfOneWideMatrix) {
  const AttentionSpec spec = make_spec(4, 2, 8);
  const Inputs inputs = random_inputs(spec, 30);
  Matrix wide(30, 32 + 16 + 16 + 32);
  const auto place = [&](Index column, const Matrix& part) {
    for (Index t = 0; t < 30; ++t)
      for (Index c = 0; c < part.columns; ++c) wide(t, column + c) = part(t, c);
    return wide.view().slice_columns(column, part.columns);
  };
  const auto q = place(0, inputs.q);
  const auto k = place(32, inputs.k);
  const auto v = place(48, inputs.v);
  const auto out = wide.view().slice_columns(64, 32);
  attention(spec, {}, {}, q, k, v, out);
  const auto expected = reference::attention(spec, {}, {}, to_rows(inputs.q.view()),
                                             to_rows(inputs.k.view()), to_rows(inputs.v.view()));
  EXPECT_LT(reference::difference(out, expected), 2e-6);
}

TEST(Attention, NothingComesFromTheFuture) {
  const AttentionSpec spec = make_spec(2, 1, 16);
  Inputs first = random_inputs(spec, 300);
  Inputs second = first;
  for (Index t = 200; t < 300; ++t)
    for (Matrix* m : {&second.q, &second.k, &second.v})
      for (float& value : m->view().row(t)) value = 50;
  Matrix out_first(300, 32), out_second(300, 32);
  attention(spec, {}, {}, first.q.view(), first.k.view(), first.v.view(), out_first.view());
  attention(spec, {}, {}, second.q.view(), second.k.view(), second.v.view(), out_second.view());
  for (Index t = 0; t < 200; ++t)
    for (Index c = 0; c < 32; ++c) ASSERT_EQ(out_first(t, c), out_second(t, c)) << t << ", " << c;
}

TEST(Attention, NoTokens) {
  const AttentionSpec spec = make_spec(2, 1, 16);
  const MatrixView<float> q(nullptr, 0, 32), k(nullptr, 0, 16);
  attention(spec, {}, {}, q, k, k, q);
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  AttentionSpec spec = make_spec(2, 1, 16);
  Inputs inputs = random_inputs(spec, 4);
  Matrix out(4, 32);
  const auto call = [&] {
    attention(spec, inputs.q_norm, inputs.k_norm, inputs.q.view(), inputs.k.view(), inputs.v.view(),
              out.view());
  };
  EXPECT_NO_THROW(call());
  spec.qk_norm = QkNorm::projection;  // without weights
  EXPECT_THROW(call(), Error);
  spec = make_spec(2, 2, 16);
  EXPECT_THROW(call(), Error);
}

TEST(Attention, ScratchIsBoundedByTheTile) {
  EXPECT_EQ(attention_scratch_bytes(10), 400);
  EXPECT_EQ(attention_scratch_bytes(32768), Index{4} * 256 * 32768);
}

}  // namespace
}  // namespace aq::runtime
