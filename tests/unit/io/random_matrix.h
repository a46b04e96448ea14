#pragma once
#include <cmath>
#include <random>
#include <vector>

#include "aq/formats/quantized_matrix.h"

namespace aq::test {

/// A quantized matrix with random codes (returned one a byte in `codes`), scales and zeros.
inline QuantizedMatrix random_matrix(const Scheme& scheme, Index rows, Index columns,
                                     std::mt19937_64& random, std::vector<std::uint8_t>& codes) {
  QuantizedMatrix matrix = make_quantized(scheme, rows, columns);
  const std::uint64_t levels = std::uint64_t{1} << scheme.bits;
  const Index words = words_per_row(scheme.bits, columns);
  codes.resize(rows * columns);
  for (std::uint8_t& code : codes) {
    code = static_cast<std::uint8_t>(random() % levels);
    if (scheme.is_float() && !std::isfinite(element_value(scheme.element, code))) code = 0;
  }
  if (scheme.is_nvfp4()) matrix.global_scale = 64;
  for (Index row = 0; row < rows; ++row)
    pack_row(scheme.bits, std::span(codes).subspan(row * columns, columns),
             std::span(matrix.codes).subspan(row * words, words));
  for (float& scale : matrix.scales)
    scale = round_scale(scheme.scale_type, 0.001f + static_cast<float>(random() % 1000) / 5000) /
            matrix.global_scale;
  for (std::uint8_t& zero : matrix.zeros) zero = static_cast<std::uint8_t>(random() % levels);
  return matrix;
}

/// Every width, symmetry, group kind (a shorter last group too) and scale type.
inline std::vector<Scheme> all_schemes() {
  std::vector<Scheme> schemes;
  for (const std::string_view name : format_names()) {
    const Scheme format = *scheme_from_format(name);
    if (format.is_float()) schemes.push_back(format);
  }
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool symmetric : {true, false})
      for (const Index group : {Index{16}, Index{32}, kPerChannel, kPerTensor})
        for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16})
          schemes.push_back({Element::integer, bits, symmetric, group, type});
  return schemes;
}

}  // namespace aq::test
