#pragma once
/// Numbers as the bytes of tensors.

#include <cstring>
#include <span>
#include <vector>

#include "aq/core/dtype.h"
#include "aq/formats/quantized_matrix.h"

namespace aq {

/// The values in memory order.
template <class T>
std::vector<std::byte> bytes_of(std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

/// Rounded to a floating point type: F32, F16 or BF16.
std::vector<std::byte> floats_as(DType dtype, std::span<const float> values);

/// Codes `[rows, columns]`, one a byte.
std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix);

/// The bit stream of the codes column by column, each column padded to 32-bit words: what packing
/// along the first dimension gives. `values` is `[rows, columns]`; the result is the transpose of
/// `[words of a column, columns]`, that is `[columns, words]`.
std::vector<std::uint32_t> pack_columns(int bits, std::span<const std::uint8_t> values, Index rows,
                                        Index columns);

/// `[columns, rows]` of `[rows, columns]`.
template <class T>
std::vector<T> transposed(std::span<const T> values, Index rows, Index columns) {
  std::vector<T> result(values.size());
  constexpr Index kTile = 64;  // both sides stay in the cache
  for (Index r0 = 0; r0 < rows; r0 += kTile)
    for (Index c0 = 0; c0 < columns; c0 += kTile)
      for (Index r = r0; r < std::min(rows, r0 + kTile); ++r)
        for (Index c = c0; c < std::min(columns, c0 + kTile); ++c)
          result[c * rows + r] = values[r * columns + c];
  return result;
}

/// Name of the dtype in which scales of that type are written: "F32", "F16", "BF16", "F8_E4M3";
/// E8M0 as "U8".
std::string scale_dtype(ScaleType type);
/// The scales as that dtype; exact, since they are values of their type.
std::vector<std::byte> scale_bytes(const QuantizedMatrix& matrix);

}  // namespace aq
