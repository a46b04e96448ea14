#include "aq/formats/quantized_matrix.h"

#include <gtest/gtest.h>

#include "aq/core/error.h"

namespace aq {
namespace {

/// A matrix with every field different from row to row.
QuantizedMatrix example(const Scheme& scheme, Index rows, Index columns) {
  QuantizedMatrix matrix = make_quantized(scheme, rows, columns);
  const auto words = static_cast<std::size_t>(words_per_row(scheme.bits, columns));
  std::vector<std::uint8_t> codes(columns);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    for (std::size_t c = 0; c < codes.size(); ++c) {
      codes[c] = static_cast<std::uint8_t>((5 * r + 3 * c) % (1U << scheme.bits));
    }
    pack_row(scheme.bits, codes, std::span(matrix.codes).subspan(r * words, words));
  }
  for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
    matrix.scales[i] = 0.5F + static_cast<float>(i) / 128;
  }
  for (std::size_t i = 0; i < matrix.zeros.size(); ++i) {
    matrix.zeros[i] = static_cast<std::uint8_t>(i % (1U << scheme.bits));
  }
  return matrix;
}

std::vector<Scheme> schemes() {
  std::vector<Scheme> all;
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const Index group : {Index{32}, Index{7}, kPerChannel, kPerTensor}) {
        all.push_back({.bits = bits, .symmetric = symmetric, .group_size = group});
      }
    }
  }
  return all;
}

TEST(QuantizedMatrix, DequantizeIsCodeMinusZeroTimesScale) {
  for (const Scheme& scheme : schemes()) {
    const QuantizedMatrix matrix = example(scheme, 3, 45);
    Matrix values(3, 45);
    dequantize(matrix, values.view());
    for (Index r = 0; r < 3; ++r) {
      for (Index c = 0; c < 45; ++c) {
        const Index code = (5 * r + 3 * c) % (Index{1} << scheme.bits);
        const Index width = scheme.group_size > 0 ? scheme.group_size : 45;
        const Index groups = (45 + width - 1) / width;
        const Index at = scheme.group_size == kPerTensor ? 0 : r * groups + c / width;
        const Index zero =
            scheme.symmetric ? Index{1} << (scheme.bits - 1) : at % (Index{1} << scheme.bits);
        const float scale = 0.5F + static_cast<float>(at) / 128;
        ASSERT_EQ(values(r, c), static_cast<float>(code - zero) * scale) << to_string(scheme);
      }
    }
  }
}

TEST(QuantizedMatrix, SlicesStackToTheWhole) {
  for (const Scheme& scheme : schemes()) {
    const QuantizedMatrix matrix = example(scheme, 9, 45);
    const std::vector<QuantizedMatrix> slices = {slice_rows(matrix, 0, 4), slice_rows(matrix, 4, 0),
                                                 slice_rows(matrix, 4, 5)};
    EXPECT_EQ(slices[2].rows, 5);
    EXPECT_EQ(stack_rows(slices), matrix) << to_string(scheme);
    Matrix whole(9, 45);
    Matrix part(5, 45);
    dequantize(matrix, whole.view());
    dequantize(slices[2], part.view());
    for (Index c = 0; c < 45; ++c) ASSERT_EQ(part(4, c), whole(8, c));
  }
}

std::vector<std::byte> to_bytes(const QuantizedMatrix& matrix) {
  ByteWriter out;
  write_bytes(matrix, out);
  return out.take();
}
QuantizedMatrix from_bytes(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  QuantizedMatrix matrix = read_bytes(in);
  EXPECT_TRUE(in.at_end());
  return matrix;
}

TEST(QuantizedMatrix, TravelsAsBytes) {
  for (const Scheme& scheme : schemes()) {
    const QuantizedMatrix matrix = example(scheme, 4, 33);
    const auto bytes = to_bytes(matrix);
    EXPECT_EQ(from_bytes(bytes), matrix) << to_string(scheme);
    EXPECT_EQ(to_bytes(from_bytes(bytes)), bytes);
  }
  const QuantizedMatrix empty = make_quantized(Scheme{}, 0, 0);
  EXPECT_EQ(from_bytes(to_bytes(empty)), empty);
}

TEST(QuantizedMatrix, BytesOfAnotherLengthAreRefused) {
  auto bytes = to_bytes(example(Scheme{}, 4, 33));
  bytes.pop_back();
  EXPECT_ANY_THROW(from_bytes(bytes));
  EXPECT_ANY_THROW(from_bytes(std::span(bytes).first(3)));
  QuantizedMatrix longer = example(Scheme{}, 4, 33);
  longer.scales.push_back(1);
  EXPECT_ANY_THROW(from_bytes(to_bytes(longer)));
}

}  // namespace
}  // namespace aq
