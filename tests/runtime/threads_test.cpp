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
  const std::vector<float> expected = compute();
  for (const int threads : {2, 5, 2, 1}) {
    set_thread_count(threads);
    const std::vector<float> got = compute();
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
  AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 32;
  spec.clip_qkv = 2;
  const std::vector<Index> starts = {0, 300, 301, 364, 430, 700};
  const Matrix start = random_matrix(700, 256, 1);
  expect_equal_bits([&] {
    Matrix qkv = start;
    Matrix out(700, 128);
    parallel_for(std::ssize(starts) - 1, [&](Index s) {
      const Index first = starts[static_cast<std::size_t>(s)];
      const Index count = starts[static_cast<std::size_t>(s) + 1] - first;
      const auto rows = qkv.view().slice_rows(first, count);
      attention(spec, {}, {}, rows.slice_columns(0, 128), rows.slice_columns(128, 64),
                rows.slice_columns(192, 64), out.view().slice_rows(first, count));
    });
    return out.values;
  });
}

TEST(Threads, RowsAreIndependentInNormAndActivation) {
  const Matrix x = random_matrix(64, 173, 1);
  const Matrix up = random_matrix(64, 173, 2);
  Matrix whole = x;
  rms_norm(x.view(), up.view().row(0), 1e-5, whole.view());
  silu_multiply(whole.view(), up.view());
  expect_equal_bits([&] {
    Matrix parts(64, 173);
    parallel_for(64, [&](Index t) {
      const auto row = parts.view().slice_rows(t, 1);
      rms_norm(x.view().slice_rows(t, 1), up.view().row(0), 1e-5, row);
      silu_multiply(row, up.view().slice_rows(t, 1));
    });
    EXPECT_TRUE(parts.values == whole.values);
    return parts.values;
  });
}

}  // namespace
}  // namespace aq::runtime
