/// The bits do not depend on how many threads call.

#include <gtest/gtest.h>

#include "aq/core/parallel.h"
#include "aq/runtime/pieces.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;

class OneThreadInside : public testing::Environment {
  void SetUp() override {
    initialize();
    initialize();  // again does nothing
  }
};
const testing::Environment* const environment =
    testing::AddGlobalTestEnvironment(new OneThreadInside);

/// Calls `compute` with 1, 2 and 5 threads set; all results must have equal bits.
template <class Compute>
void expect_equal_bits(const Compute& compute) {
  set_thread_count(1);
  const FloatArray expected = compute();
  for (const int threads : {2, 5, 2, 1}) {
    set_thread_count(threads);
    const FloatArray got = compute();
    EXPECT_EQ(got == expected, true) << threads << " threads";
  }
  set_thread_count(1);
}

TEST(Threads, VersionIsKnown) {
  EXPECT_FALSE(torch_version().empty());
}

TEST(Threads, Linear) {
  for (const Index rows : {1, 3, 16, 64}) {
    const Index blocks = 16;
    const Matrix x = random_matrix(blocks * rows, 172, 1);
    const Matrix weight = random_matrix(200, 172, 2);
    expect_equal_bits([&] {
      Matrix out(x.rows, 200);
      parallel_for(blocks, [&](Index b) {
        linear(x.view().slice_rows(b * rows, rows), weight.view(),
               out.view().slice_rows(b * rows, rows));
      });
      return out.values;
    });
  }
}

TEST(Threads, LinearsOfDifferentShapesAtOnce) {
  const Matrix x = random_matrix(400, 256, 1);
  const Matrix weight = random_matrix(300, 256, 2);
  expect_equal_bits([&] {
    Matrix out(400, 300);
    parallel_for(19, [&](Index b) {  // blocks of 1, 3, 5, ... rows
      const Index rows = 2 * b + 1;
      linear(x.view().slice_rows(b * b, rows), weight.view(), out.view().slice_rows(b * b, rows));
    });
    return out.values;
  });
}

TEST(Threads, Attention) {
  AttentionSpec spec = reference::plain_attention(4, 2, 32);
  spec.clip_qkv = 2;
  const std::vector<Index> starts = {0, 300, 301, 364, 430, 700};
  const Matrix start = random_matrix(700, 256, 1);
  expect_equal_bits([&] {
    Matrix qkv = start;
    Matrix out(700, 128);
    parallel_for(std::ssize(starts) - 1, [&](Index s) {
      const Index first = starts[s];
      const Index count = starts[static_cast<std::size_t>(s) + 1] - first;
      const auto rows = qkv.view().slice_rows(first, count);
      attention(spec, {}, rows.slice_columns(0, 128), rows.slice_columns(128, 64),
                rows.slice_columns(192, 64), out.view().slice_rows(first, count));
    });
    return out.values;
  });
}

/// Layers of one model that alternate between two rotary embeddings, more positions each time.
TEST(Threads, TablesOfSeveralRotaryEmbeddingsAtOnce) {
  const Matrix start = random_matrix(200, 96, 1);
  const FloatArray sinks = {0.5F, -1};
  expect_equal_bits([&] {
    Matrix out(200 * 12, 32);
    parallel_for(12, [&](Index i) {
      AttentionSpec spec = reference::plain_attention(2, 2, 16);
      spec.sliding_window = i % 2 == 0 ? 50 : 0;
      spec.rope.theta = i % 2 == 0 ? 10000 : 1e6;
      spec.rope.magnitude = 1 + 0.1 * static_cast<double>(i % 3);  // six tables in all
      Matrix qkv = start;
      const Index count = 90 + 10 * i;
      const auto rows = qkv.view().slice_rows(0, count);
      attention(spec, {.sinks = sinks}, rows.slice_columns(0, 32), rows.slice_columns(32, 32),
                rows.slice_columns(64, 32), out.view().slice_rows(200 * i, count));
    });
    return out.values;
  });
}

TEST(Threads, RowsAreIndependentInNormBiasAndActivation) {
  const Matrix x = random_matrix(64, 173, 1);
  const Matrix up = random_matrix(64, 173, 2);
  for (const bool clamped : {false, true}) {
    const auto compute = [&](Index first, Index count, Matrix& out) {
      const auto rows = out.view().slice_rows(first, count);
      rms_norm(x.view().slice_rows(first, count), up.view().row(0), 1e-5, rows);
      add_bias(up.view().row(1), rows);
      gated_activation({.clamped = clamped}, rows, up.view().slice_rows(first, count));
    };
    Matrix whole(64, 173);
    compute(0, 64, whole);
    expect_equal_bits([&] {
      Matrix parts(64, 173);
      parallel_for(64, [&](Index t) { compute(t, 1, parts); });
      EXPECT_TRUE(parts.values == whole.values);
      return parts.values;
    });
  }
}

}  // namespace
}  // namespace aq::runtime
