#include "export/bits.h"

#include <algorithm>

#include "aq/formats/element.h"

namespace aq {

std::vector<std::byte> floats_as(DType dtype, std::span<const float> values) {
  if (dtype == DType::f32) return bytes_of(values);
  AQ_CHECK(dtype == DType::bf16 || dtype == DType::f16, dtype_name(dtype));
  std::vector<std::uint16_t> bits(values.size());
  std::ranges::transform(values, bits.begin(), dtype == DType::bf16 ? float_to_bf16 : float_to_f16);
  return bytes_of<std::uint16_t>(bits);
}

std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix) {
  std::vector<std::uint8_t> codes(matrix.rows * matrix.columns);
  const Index words = words_per_row(matrix.scheme.bits, matrix.columns);
  for (Index r = 0; r < matrix.rows; ++r)
    unpack_row(matrix.scheme.bits, std::span(matrix.codes).subspan(r * words, words),
               std::span(codes).subspan(r * matrix.columns, matrix.columns));
  return codes;
}

std::vector<std::uint32_t> pack_columns(int bits, std::span<const std::uint8_t> values, Index rows,
                                        Index columns) {
  const std::vector<std::uint8_t> by_column = transposed(values, rows, columns);
  const Index words = words_per_row(bits, rows);
  std::vector<std::uint32_t> packed(columns * words);
  for (Index c = 0; c < columns; ++c)
    pack_row(bits, std::span(by_column).subspan(c * rows, rows),
             std::span(packed).subspan(c * words, words));
  return packed;
}

std::string scale_dtype(ScaleType type) {
  switch (type) {
    case ScaleType::f32:
      return "F32";
    case ScaleType::f16:
      return "F16";
    case ScaleType::bf16:
      return "BF16";
    case ScaleType::e8m0:
      return "U8";
    case ScaleType::e4m3:
      return "F8_E4M3";
  }
  return {};
}

std::vector<std::byte> scale_bytes(const QuantizedMatrix& matrix) {
  const ScaleType type = matrix.scheme.scale_type;
  if (const auto dtype = dtype_from_name(scale_dtype(type));
      type != ScaleType::e8m0 && type != ScaleType::e4m3)
    return floats_as(*dtype, matrix.scales);
  std::vector<std::uint8_t> bits(matrix.scales.size());
  std::ranges::transform(matrix.scales, bits.begin(), [&](float scale) {
    return type == ScaleType::e8m0 ? float_to_e8m0(scale)
                                   : element_code(Element::e4m3, scale * matrix.global_scale);
  });
  return bytes_of<std::uint8_t>(bits);
}

}  // namespace aq
