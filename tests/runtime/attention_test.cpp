#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "aq/runtime/workspace.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::plain_attention;
using reference::random_matrix;
using reference::to_rows;

struct Inputs {
  Matrix q, k, v;
  FloatArray q_norm = {}, k_norm = {}, sinks = {};

  AttentionVectors vectors() const { return {q_norm, k_norm, sinks}; }
};

Inputs random_inputs(const AttentionSpec& spec, Index tokens, float spread = 1) {
  Inputs inputs = {random_matrix(tokens, spec.q_width(), 1, spread),
                   random_matrix(tokens, spec.k_width(), 2),
                   random_matrix(tokens, spec.v_width(), 3)};
  if (spec.qk_norm != QkNorm::none) {
    const bool heads = spec.qk_norm == QkNorm::head;
    inputs.q_norm = random_matrix(1, heads ? spec.head_dim : spec.q_width(), 4).values;
    inputs.k_norm = random_matrix(1, heads ? spec.head_dim : spec.k_width(), 5).values;
  }
  return inputs;
}

Matrix run(const AttentionSpec& spec, Inputs inputs) {
  Matrix out(inputs.q.rows, spec.out_width());
  out.values.assign(out.values.size(), std::numeric_limits<float>::quiet_NaN());
  attention(spec, inputs.vectors(), inputs.q.view(), inputs.k.view(), inputs.v.view(), out.view());
  return out;
}

double error_of(const AttentionSpec& spec, const Inputs& inputs) {
  const Matrix out = run(spec, inputs);
  const auto expected = reference::attention(spec, inputs.vectors(), to_rows(inputs.q.view()),
                                             to_rows(inputs.k.view()), to_rows(inputs.v.view()));
  return reference::difference(out.view(), expected);
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
  attention(plain_attention(1, 1, 2), {}, q.view(), k.view(), v.view(), out.view());
  EXPECT_FLOAT_EQ(q(1, 0), 0.54030231F);
  EXPECT_FLOAT_EQ(q(1, 1), 0.84147098F);
  EXPECT_EQ(out(0, 0), 1);
  EXPECT_EQ(out(0, 1), 0);
  EXPECT_NEAR(out(1, 0), 0.419444, 1e-6);
  EXPECT_NEAR(out(1, 1), 0.580556, 1e-6);
}

TEST(Attention, LengthsAroundTheTile) {
  for (const Index tokens : {1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 511, 513, 600}) {
    const AttentionSpec spec = plain_attention(4, 2, 16);
    EXPECT_LT(error_of(spec, random_inputs(spec, tokens)), 2e-6) << tokens;
  }
}

TEST(Attention, HeadsAndWidths) {
  const std::vector<AttentionSpec> specs = {plain_attention(1, 1, 2),  plain_attention(8, 1, 8),
                                            plain_attention(8, 2, 10), plain_attention(6, 3, 32),
                                            plain_attention(2, 2, 64), plain_attention(3, 1, 128)};
  for (const AttentionSpec& spec : specs)
    EXPECT_LT(error_of(spec, random_inputs(spec, 70)), 2e-6)
        << spec.heads << " heads, " << spec.kv_heads << " kv, " << spec.head_dim;
}

TEST(Attention, SlidingWindow) {
  AttentionSpec spec = plain_attention(2, 1, 16);
  for (const Index tokens : {1, 7, 256, 300, 550})
    for (const Index window : {1, 2, 5, 100, 255, 256, 257, 300, 1000}) {
      spec.sliding_window = window;
      // the angle pos * frequency is rounded to fp32, as in transformers: 3e-5 at position 500
      EXPECT_LT(error_of(spec, random_inputs(spec, tokens)), 1e-5) << tokens << ", " << window;
    }
}

TEST(Attention, NormOfTheWholeProjectionThenClip) {
  AttentionSpec spec = plain_attention(4, 2, 16);
  spec.norm_eps = 1e-3;
  for (const bool norm : {false, true})
    for (const double limit : {0.0, 0.3, 2.0}) {
      spec.qk_norm = norm ? QkNorm::projection : QkNorm::none;
      spec.clip_qkv = limit > 0 ? std::optional(limit) : std::nullopt;
      EXPECT_LT(error_of(spec, random_inputs(spec, 40)), 2e-6) << norm << ", " << limit;
    }
}

TEST(Attention, NormOfEachHead) {
  for (const auto& [heads, kv_heads, head_dim] : {std::array<Index, 3>{4, 2, 16}, {6, 1, 10}}) {
    AttentionSpec spec = plain_attention(heads, kv_heads, head_dim);
    spec.norm_eps = 1e-3;
    spec.qk_norm = QkNorm::head;
    EXPECT_LT(error_of(spec, random_inputs(spec, 40)), 2e-6);
    spec.clip_qkv = 0.5;
    EXPECT_LT(error_of(spec, random_inputs(spec, 40)), 2e-6);
  }
}

TEST(Attention, ValuesOfAnotherWidth) {
  for (const Index value_dim : {1, 8, 17, 40}) {
    AttentionSpec spec = plain_attention(4, 2, 24);
    spec.value_dim = value_dim;
    EXPECT_LT(error_of(spec, random_inputs(spec, 270)), 2e-6) << value_dim;
  }
}

TEST(Attention, OtherScales) {
  AttentionSpec spec = plain_attention(2, 2, 16);
  for (const double scale : {1e-3, 0.1, 0.25 * 1.5896, 1.0}) {
    spec.scale = scale;
    EXPECT_LT(error_of(spec, random_inputs(spec, 60)), 5e-6) << scale;
  }
}

/// One key with score 0: the weight of its value is 1 / (1 + exp(sink)).
TEST(Attention, SinkByHand) {
  const AttentionSpec spec = plain_attention(2, 1, 2);
  Inputs inputs = {Matrix(1, 4), Matrix(1, 2), Matrix(1, 2)};
  inputs.v.values = {12, 8};
  inputs.sinks = {0, std::log(3.0F)};
  const Matrix out = run(spec, inputs);
  EXPECT_FLOAT_EQ(out(0, 0), 6);
  EXPECT_FLOAT_EQ(out(0, 1), 4);
  EXPECT_FLOAT_EQ(out(0, 2), 3);
  EXPECT_FLOAT_EQ(out(0, 3), 2);
}

TEST(Attention, SinksBelowAndAboveTheScores) {
  AttentionSpec spec = plain_attention(4, 2, 16);
  for (const Index window : {0, 1, 5, 128})
    for (const float shift : {-20.0F, -1.0F, 0.0F, 3.0F, 20.0F}) {
      spec.sliding_window = window;
      Inputs inputs = random_inputs(spec, 150);
      inputs.sinks = {shift, shift + 1, shift - 0.5F, shift + 2};
      EXPECT_LT(error_of(spec, inputs), 5e-6) << window << ", " << shift;
    }
}

TEST(Attention, SinksAtTheirExtremes) {
  const AttentionSpec spec = plain_attention(2, 2, 16);
  Inputs inputs = random_inputs(spec, 30);
  const Matrix without = run(spec, inputs);
  inputs.sinks = {-std::numeric_limits<float>::infinity(), -1e9F};
  EXPECT_EQ(run(spec, inputs).values, without.values);
  inputs.sinks = {1e9F, 1000};
  for (const float value : run(spec, inputs).values) EXPECT_EQ(value, 0);
}

TEST(Attention, RotationOfAPartOfEachHead) {
  AttentionSpec spec = plain_attention(4, 2, 24);
  for (const auto& [begin, dims] : {std::array<Index, 2>{0, 12}, {12, 12}, {5, 2}, {16, 8}, {0, 0}})
    for (const bool interleaved : {false, true}) {
      spec.rope.begin = begin;
      spec.rope.dims = dims;
      spec.rope.interleaved = interleaved;
      const Inputs inputs = random_inputs(spec, 40);
      EXPECT_LT(error_of(spec, inputs), 2e-6) << begin << ", " << dims << ", " << interleaved;
    }
}

TEST(Attention, ScaledFrequencies) {
  for (const RopeScaling scaling : {RopeScaling::linear, RopeScaling::llama3, RopeScaling::yarn})
    for (const bool truncate : {false, true}) {
      AttentionSpec spec = plain_attention(2, 1, 32);
      spec.rope.scaling = scaling;
      spec.rope.factor = 8;
      spec.rope.original_positions = 64;
      spec.rope.beta_fast = 8;
      spec.rope.truncate = truncate;
      spec.rope.magnitude = 1.2;
      EXPECT_LT(error_of(spec, random_inputs(spec, 200)), 5e-6) << truncate;
    }
}

/// As in gpt-oss: a window, sinks, YaRN whose ramp is not truncated, its magnitude.
TEST(Attention, WindowSinksAndYarnTogether) {
  AttentionSpec spec = plain_attention(8, 2, 64);
  spec.sliding_window = 128;
  spec.rope.theta = 150000;
  spec.rope.magnitude = 0.1 * std::log(32.0) + 1;
  spec.rope.scaling = RopeScaling::yarn;
  spec.rope.factor = 32;
  spec.rope.original_positions = 4096;
  spec.rope.truncate = false;
  Inputs inputs = random_inputs(spec, 300);
  inputs.sinks = random_matrix(1, 8, 6).values;
  EXPECT_LT(error_of(spec, inputs), 1e-5);
}

TEST(ExpandLatent, ByHand) {
  AttentionSpec spec = plain_attention(2, 2, 3);  // 2 without rotation, 1 shared
  spec.value_dim = 1;
  Matrix kv(2, 6), rope_key(2, 1), k(2, 6), v(2, 2);
  kv.values = {1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16};
  rope_key.values = {-1, -2};
  expand_latent(spec, kv.view(), rope_key.view(), k.view(), v.view());
  EXPECT_EQ(k.values, (FloatArray{1, 2, -1, 4, 5, -1, 11, 12, -2, 14, 15, -2}));
  EXPECT_EQ(v.values, (FloatArray{3, 6, 13, 16}));
}

TEST(ExpandLatent, RefusesShapesThatDoNotFit) {
  AttentionSpec spec = plain_attention(2, 2, 3);
  spec.value_dim = 1;
  Matrix kv(2, 6), rope_key(2, 1), wide_key(2, 2), k(2, 6), v(2, 2);
  EXPECT_THROW(expand_latent(spec, kv.view(), wide_key.view(), k.view(), v.view()), Error);
  EXPECT_THROW(expand_latent(spec, kv.view(), rope_key.view(), v.view(), k.view()), Error);
  spec.kv_heads = 1;
  EXPECT_THROW(expand_latent(spec, kv.view(), rope_key.view(), k.view(), v.view()), Error);
}

/// As in DeepSeek: the key of one head is rotated before it is given to all of them, the values
/// are narrower, the pairs interleaved. What lies beside the parts is not read or written.
TEST(ExpandLatent, AttentionOverItAgreesWithDoublePrecision) {
  const Index heads = 4, plain = 16, rotary = 8, tokens = 50;
  AttentionSpec spec = plain_attention(heads, heads, plain + rotary);
  spec.value_dim = 12;
  spec.scale *= 1.5896;
  spec.rope = {.begin = plain,
               .dims = rotary,
               .interleaved = true,
               .magnitude = 1.1,
               .scaling = RopeScaling::yarn,
               .factor = 40,
               .original_positions = 64,
               .beta_fast = 4};
  const Matrix kv = random_matrix(tokens, heads * (plain + 12), 1);
  const Matrix latent = random_matrix(tokens, 20 + rotary, 2);  // the key lies behind a latent
  Inputs inputs = random_inputs(spec, tokens);
  expand_latent(spec, kv.view(), latent.view().slice_columns(20, rotary), inputs.k.view(),
                inputs.v.view());
  auto k = to_rows(inputs.k.view());
  for (std::size_t t = 0; t < k.size(); ++t)
    for (std::size_t h = 0; h < 4; ++h)
      for (std::size_t i = 0; i < 24; ++i) {
        const auto row = static_cast<Index>(t);
        const auto at = static_cast<Index>(i);
        k[t][h * 24 + i] =
            at < plain ? kv(row, static_cast<Index>(h) * 28 + at) : latent(row, 20 + at - plain);
      }
  const auto v = to_rows(inputs.v.view());
  EXPECT_EQ(v[7][2 * 12 + 3], kv(7, 2 * 28 + plain + 3));
  const auto expected = reference::attention(spec, {}, to_rows(inputs.q.view()), k, v);
  EXPECT_LT(reference::difference(run(spec, inputs).view(), expected), 2e-6);
}

TEST(Attention, OtherThetas) {
  AttentionSpec spec = plain_attention(2, 2, 32);
  for (const double theta : {100.0, 10000.0, 500000.0, 1e6}) {
    spec.rope.theta = theta;
    EXPECT_LT(error_of(spec, random_inputs(spec, 200)), 5e-6) << theta;
  }
}

TEST(Attention, LargeScores) {
  const AttentionSpec spec = plain_attention(2, 2, 32);
  EXPECT_LT(error_of(spec, random_inputs(spec, 300, 20)), 1e-4);
}

TEST(Attention, PartsOfOneWideMatrix) {
  const AttentionSpec spec = plain_attention(4, 2, 8);
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
  attention(spec, {}, q, k, v, out);
  const auto expected = reference::attention(spec, {}, to_rows(inputs.q.view()),
                                             to_rows(inputs.k.view()), to_rows(inputs.v.view()));
  EXPECT_LT(reference::difference(out, expected), 2e-6);
}

TEST(Attention, NothingComesFromTheFuture) {
  const AttentionSpec spec = plain_attention(2, 1, 16);
  Inputs first = random_inputs(spec, 300);
  Inputs second = first;
  for (Index t = 200; t < 300; ++t)
    for (Matrix* m : {&second.q, &second.k, &second.v})
      for (float& value : m->view().row(t)) value = 50;
  Matrix out_first(300, 32), out_second(300, 32);
  attention(spec, {}, first.q.view(), first.k.view(), first.v.view(), out_first.view());
  attention(spec, {}, second.q.view(), second.k.view(), second.v.view(), out_second.view());
  for (Index t = 0; t < 200; ++t)
    for (Index c = 0; c < 32; ++c) ASSERT_EQ(out_first(t, c), out_second(t, c)) << t << ", " << c;
}

TEST(Attention, NoTokens) {
  const AttentionSpec spec = plain_attention(2, 1, 16);
  const MatrixView<float> q(nullptr, 0, 32), k(nullptr, 0, 16);
  attention(spec, {}, q, k, k, q);
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  AttentionSpec spec = plain_attention(2, 1, 16);
  Inputs inputs = random_inputs(spec, 4);
  Matrix out(4, 32);
  const auto call = [&] {
    attention(spec, inputs.vectors(), inputs.q.view(), inputs.k.view(), inputs.v.view(),
              out.view());
  };
  EXPECT_NO_THROW(call());
  spec.qk_norm = QkNorm::projection;  // without weights
  EXPECT_THROW(call(), Error);
  spec = plain_attention(2, 2, 16);
  EXPECT_THROW(call(), Error);
  spec = plain_attention(2, 1, 16);
  spec.qk_norm = QkNorm::head;  // weights of the whole projection
  inputs.q_norm.resize(32);
  inputs.k_norm.resize(16);
  EXPECT_THROW(call(), Error);
  inputs.q_norm.resize(16);
  EXPECT_NO_THROW(call());
  spec.value_dim = 8;
  EXPECT_THROW(call(), Error);
  spec.value_dim = 16;
  inputs.sinks.resize(1);
  EXPECT_THROW(call(), Error);
  inputs.sinks.resize(2);
  EXPECT_NO_THROW(call());
  spec.rope.begin = 2;
  EXPECT_THROW(call(), Error);
  spec.rope.dims = 14;
  EXPECT_NO_THROW(call());
  spec.scale = 0;
  EXPECT_THROW(call(), Error);
}

TEST(Attention, ScratchIsBoundedByTheTile) {
  EXPECT_EQ(attention_scratch_bytes(10), 400);
  EXPECT_EQ(attention_scratch_bytes(32768), Index{4} * 256 * 32768);
}

}  // namespace
}  // namespace aq::runtime
