/// Tensors and the operations over them, against the plain functions over views.

#include "aq/runtime/tensor.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "aq/core/error.h"
#include "aq/core/offload.h"
#include "aq/core/parallel.h"
#include "aq/runtime/operations.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

using reference::random_matrix;

/// The elements in order, whatever is between the rows.
FloatArray values_of(const Tensor& tensor) {
  FloatArray values;
  for (Index r = 0; r < tensor.rows(); ++r)
    for (const float value : tensor.host().row(r)) values.push_back(value);
  return values;
}

TEST(Tensor, TakesAMatrixOverWithoutCopying) {
  Matrix matrix = random_matrix(3, 5, 1);
  const FloatArray expected = matrix.values;
  const float* data = matrix.values.data();
  const Tensor tensor = Tensor::from(std::move(matrix));
  EXPECT_EQ(tensor.host().data, data);
  EXPECT_EQ(tensor.rows(), 3);
  EXPECT_EQ(tensor.columns(), 5);
  EXPECT_EQ(values_of(tensor), expected);
}

TEST(Tensor, WindowsShareElementsAndKeepThemAlive) {
  Tensor window;
  {
    Tensor whole = Tensor::from(random_matrix(6, 4, 2));
    window = whole.window({2, 5}).window_columns(1, 2);
    whole.host()(3, 2) = 42;
  }
  EXPECT_EQ(window.rows(), 3);
  EXPECT_EQ(window.columns(), 2);
  EXPECT_EQ(window.host()(1, 1), 42);
  EXPECT_EQ(window.host()(2, 0), random_matrix(6, 4, 2)(4, 1));
}

TEST(Tensor, LiesInAFileWhereADirectoryWasChosen) {
  const FloatArray expected = random_matrix(300, 5, 3).values;
  const Tensor in_memory = Tensor::from(random_matrix(300, 5, 3));
  EXPECT_EQ(values_of(in_memory.clone(Storage::offload)), expected);
  try {
    offload_to(std::filesystem::current_path());
  } catch (const Error& error) {
    offload_to({});
    GTEST_SKIP() << error.what();
  }
  {
    const Tensor copy = in_memory.clone(Storage::offload);
    EXPECT_EQ(values_of(copy), expected);
    EXPECT_EQ(offloaded_bytes().used, 300 * 5 * 4);
    Tensor window;
    {
      const Tensor zeros = Tensor::zeros(7, 3, {{}, DType::bf16}, Storage::offload);
      EXPECT_EQ(values_of(zeros.as(DType::f32)), FloatArray(21, 0.0f));
      window = zeros.window({2, 3});
      EXPECT_EQ(Tensor(0, 5, {}, Storage::offload).rows(), 0);
    }
    EXPECT_EQ(offloaded_bytes().used, 300 * 5 * 4 + 7 * 3 * 2) << "a window keeps its file";
    EXPECT_EQ(in_memory.clone().rows(), 300);
    EXPECT_EQ(offloaded_bytes().used, 300 * 5 * 4 + 7 * 3 * 2) << "not asked to lie in a file";
  }
  EXPECT_EQ(offloaded_bytes().used, 0);
  offload_to({});
}

TEST(Tensor, ACloneIsApart) {
  Tensor first = Tensor::zeros(2, 2);
  Tensor second = first.clone();
  second.host()(0, 1) = 1;
  EXPECT_EQ(values_of(first), FloatArray(4, 0.0f));
  EXPECT_EQ(values_of(second), (FloatArray{0, 1, 0, 0}));
}

TEST(Tensor, Bfloat16IsRoundedToNearestEven) {
  Matrix matrix(1, 6);
  matrix.values = {1.0f, 1.00390625f, 1.01171875f, -3.0e38f, 1e-40f, 0.1f};
  const Tensor narrow = Tensor::from(std::move(matrix)).as(DType::bf16);
  EXPECT_EQ(narrow.kind().dtype, DType::bf16);
  EXPECT_THROW(narrow.host(), Error);
  // 1 + 1/256 is half way to an even mantissa below, 1 + 3/256 to one above.
  EXPECT_EQ(values_of(narrow.as(DType::f32)),
            (FloatArray{1.0f, 1.0f, 1.015625f, -0x1.c4p+127f, 0x1p-133f, 0.10009765625f}));
  Tensor window(3, 6);
  copy(narrow, window.window({1, 2}));
  EXPECT_EQ(window.host()(1, 2), 1.015625f);
}

TEST(Tensor, AMovedOneIsEmpty) {
  Tensor first = Tensor::zeros(2, 3);
  const Tensor second = std::move(first);
  EXPECT_EQ(first.rows(), 0);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(first.host().rows, 0);
  EXPECT_EQ(second.rows(), 2);
  EXPECT_EQ(Tensor().clone().rows(), 0);
}

TEST(Tensor, OnlyWholeRowsAreBytes) {
  Tensor tensor = Tensor::zeros(4, 3);
  EXPECT_EQ(tensor.window({1, 3}).bytes().bytes.size(), 2 * 3 * sizeof(float));
  EXPECT_THROW(tensor.window_columns(0, 2).bytes(), Error);
}

TEST(Tensor, WhatThisModuleCannotComputeWithIsRefused) {
  EXPECT_THROW(Tensor(1, 1, {.device = {.kind = Device::Kind::cuda}}), Error);
  EXPECT_THROW(Tensor::zeros(1, 1, {.dtype = DType::f16}), Error);
}

TEST(Operations, LinearGivesTheBitsOfTheViews) {
  for (const Index rows : {1, 2, 17, 64}) {
    const Matrix x = random_matrix(rows + 3, 40, 3), weight = random_matrix(24, 40, 4);
    const FloatArray bias = random_matrix(1, 24, 5).values;
    Matrix expected(rows, 24);
    linear(x.view().slice_rows(2, rows), weight.view(), expected.view());
    add_bias(bias, expected.view());
    Tensor out(rows + 1, 24);
    linear(Tensor::from(x).window({2, 2 + rows}), Tensor::from(weight), bias,
           out.window({1, 1 + rows}));
    EXPECT_EQ(values_of(out.window({1, 1 + rows})), expected.values) << rows;
  }
}

TEST(Operations, RangesAreOnePassEachOnAnyNumberOfThreads) {
  const Matrix x = random_matrix(30, 16, 6);
  const FloatArray weight = random_matrix(1, 16, 7).values;
  const std::vector<Range> ranges{{0, 7}, {7, 7}, {7, 29}, {29, 30}};
  Matrix expected(30, 16);
  rms_norm(x.view(), weight, 1e-5, expected.view());
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    EXPECT_EQ(values_of(rms_norm(Tensor::from(x), weight, 1e-5, ranges, Storage::memory)),
              expected.values);
  }
  set_thread_count(1);
  std::vector<Index> seen;
  for_each_range(ranges, [&](Index number, Range) { seen.push_back(number); });
  EXPECT_EQ(seen, (std::vector<Index>{0, 2, 3}));
}

TEST(Operations, RowsGatheredAndAddedBackByWeight) {
  const Tensor x = Tensor::from(random_matrix(5, 3, 8));
  const std::vector<std::int32_t> rows{4, 0, 3};
  const Tensor some = gather_rows(x, rows);
  EXPECT_EQ(some.rows(), 3);
  EXPECT_EQ(some.host()(0, 2), x.host()(4, 2));
  Tensor y = Tensor::zeros(5, 3);
  add_weighted(some, rows, FloatArray{2, 0.5f, -1}, y);
  EXPECT_EQ(y.host()(4, 1), 2 * x.host()(4, 1));
  EXPECT_EQ(y.host()(0, 0), 0.5f * x.host()(0, 0));
  EXPECT_EQ(y.host()(3, 2), -x.host()(3, 2));
  EXPECT_EQ(y.host()(1, 1), 0);
  add(x, y.window());
  EXPECT_EQ(y.host()(1, 1), x.host()(1, 1));
  EXPECT_THROW(add_weighted(some, std::vector<std::int32_t>{1}, FloatArray{1}, y), Error);
}

}  // namespace
}  // namespace aq::runtime
