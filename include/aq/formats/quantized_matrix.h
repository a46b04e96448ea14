#pragma once
/// A quantized matrix as it is stored, and its packing.

#include <cstdint>
#include <span>
#include <vector>

#include "aq/core/bytes.h"
#include "aq/core/matrix_view.h"
#include "aq/formats/grid.h"
#include "aq/formats/scheme.h"

namespace aq {

/// `[rows, columns]` of codes with their scales and zeros.
struct QuantizedMatrix {
  Scheme scheme;
  Index rows = 0;
  Index columns = 0;
  /// `[rows, words_per_row]`: per row a dense little-endian bit stream, least significant bit
  /// first, padded with zero bits to 32-bit words (compressed-tensors' pack-quantized).
  std::vector<std::uint32_t> codes;
  /// `[rows, groups]` or `[1]`: what codes are multiplied by. Each is a value of the scale type,
  /// of either sign with symmetric integers; nvfp4: such a value / global_scale.
  std::vector<float> scales;
  std::vector<std::uint8_t> zeros;  ///< like scales when asymmetric, else empty
  float global_scale = 1;           ///< nvfp4: a power of two; else 1

  bool operator==(const QuantizedMatrix&) const = default;
};

/// 32-bit words of a packed row.
Index words_per_row(int bits, Index columns);
/// Packs one row. @pre every code < 2^bits, out has words_per_row(bits, codes.size()) words
void pack_row(int bits, std::span<const std::uint8_t> codes, std::span<std::uint32_t> out);
void unpack_row(int bits, std::span<const std::uint32_t> words, std::span<std::uint8_t> codes);

/// An all-zero matrix with every array in its size.
QuantizedMatrix make_quantized(const Scheme& scheme, Index rows, Index columns);
/// The grid of (row, group).
Grid grid_at(const QuantizedMatrix& matrix, Index row, Index group);
/// Writes the values `[rows, columns]`: exactly what is stored.
void dequantize(const QuantizedMatrix& matrix, MatrixView<float> out);
/// Rows [begin, begin + count) as a matrix of its own (per tensor: the one scale is kept).
QuantizedMatrix slice_rows(const QuantizedMatrix& matrix, Index begin, Index count);
/// Slices one below the other. @pre same scheme and columns; per tensor: equal scales
QuantizedMatrix stack_rows(std::span<const QuantizedMatrix> slices);

void write_bytes(const QuantizedMatrix& matrix, ByteWriter& out);
QuantizedMatrix read_bytes(ByteReader& in);

}  // namespace aq
