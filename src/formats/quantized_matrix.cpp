#include "aq/formats/quantized_matrix.h"

#include <algorithm>
#include <array>

namespace aq {
namespace {

/// Sizes of the arrays of a matrix.
struct ArraySizes {
  std::size_t codes, scales, zeros;
};

ArraySizes array_sizes(const Scheme& scheme, Index rows, Index columns) {
  AQ_CHECK(scheme_problem(scheme).empty(), scheme_problem(scheme));
  AQ_CHECK(rows >= 0 && columns >= 0, rows, " x ", columns);
  const auto scales = static_cast<std::size_t>(scale_count(scheme, rows, columns));
  return {static_cast<std::size_t>(rows * words_per_row(scheme.bits, columns)), scales,
          scheme.symmetric ? 0 : scales};
}

/// What each code stands for: the code itself, or the value of the float element.
std::array<float, 256> code_values(const Scheme& scheme) {
  std::array<float, 256> values{};
  for (int code = 0; code < 1 << scheme.bits; ++code)
    values[code] = scheme.is_float()
                       ? element_value(scheme.element, static_cast<std::uint8_t>(code))
                       : static_cast<float>(code);
  return values;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

QuantizedMatrix make_quantized(const Scheme& scheme, Index rows, Index columns) {
  const ArraySizes sizes = array_sizes(scheme, rows, columns);
  QuantizedMatrix matrix;
  matrix.scheme = scheme;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.codes.resize(sizes.codes);
  matrix.scales.resize(sizes.scales);
  matrix.zeros.resize(sizes.zeros);
  return matrix;
}

Grid grid_at(const QuantizedMatrix& matrix, Index row, Index group) {
  const Index at = matrix.scheme.group_size == kPerTensor
                       ? 0
                       : row * group_count(matrix.scheme, matrix.columns) + group;
  const auto i = static_cast<std::size_t>(at);
  if (!matrix.scheme.symmetric)
    return {matrix.scales.at(i), static_cast<float>(matrix.zeros.at(i))};
  const int middle = matrix.scheme.is_float() ? 0 : 1 << (matrix.scheme.bits - 1);
  return {matrix.scales.at(i), static_cast<float>(middle)};
}

void dequantize(const QuantizedMatrix& matrix, MatrixView<float> out) {
  AQ_CHECK(out.rows == matrix.rows && out.columns == matrix.columns, out.rows, " x ", out.columns);
  const Scheme& scheme = matrix.scheme;
  const Index words = words_per_row(scheme.bits, matrix.columns);
  const Index width = group_width(scheme, matrix.columns);
  const Index groups = group_count(scheme, matrix.columns);
  const std::array<float, 256> values = code_values(scheme);
  std::vector<std::uint8_t> codes(matrix.columns);
  for (Index r = 0; r < matrix.rows; ++r) {
    unpack_row(scheme.bits, std::span(matrix.codes).subspan(r * words, words), codes);
    float* row = out.row(r).data();
    for (Index g = 0; g < groups; ++g) {
      const Grid grid = grid_at(matrix, r, g);
      const Index end = std::min(matrix.columns, (g + 1) * width);
      for (Index c = g * width; c < end; ++c) row[c] = (values[codes[c]] - grid.zero) * grid.scale;
    }
  }
}

QuantizedMatrix slice_rows(const QuantizedMatrix& matrix, Index begin, Index count) {
  AQ_CHECK(begin >= 0 && count >= 0 && begin + count <= matrix.rows, begin, " + ", count, " of ",
           matrix.rows);
  QuantizedMatrix slice = make_quantized(matrix.scheme, count, matrix.columns);
  const auto copy = [&](const auto& from, auto& to, Index per_row) {
    std::copy_n(from.begin() + begin * per_row, to.size(), to.begin());
  };
  slice.global_scale = matrix.global_scale;
  copy(matrix.codes, slice.codes, words_per_row(matrix.scheme.bits, matrix.columns));
  const bool per_tensor = matrix.scheme.group_size == kPerTensor;
  const Index groups = per_tensor ? 0 : group_count(matrix.scheme, matrix.columns);
  copy(matrix.scales, slice.scales, groups);
  copy(matrix.zeros, slice.zeros, groups);
  return slice;
}

QuantizedMatrix stack_rows(std::span<const QuantizedMatrix> slices) {
  AQ_CHECK(!slices.empty(), "no slice");
  QuantizedMatrix whole = slices.front();
  const bool per_tensor = whole.scheme.group_size == kPerTensor;
  for (const QuantizedMatrix& slice : slices.subspan(1)) {
    AQ_CHECK(slice.scheme == whole.scheme && slice.columns == whole.columns &&
                 slice.global_scale == whole.global_scale,
             to_string(slice.scheme), " and ", to_string(whole.scheme));
    whole.rows += slice.rows;
    append(whole.codes, slice.codes);
    if (per_tensor) {
      AQ_CHECK(slice.scales == whole.scales && slice.zeros == whole.zeros, "different grids");
      continue;
    }
    append(whole.scales, slice.scales);
    append(whole.zeros, slice.zeros);
  }
  return whole;
}

void write_bytes(const QuantizedMatrix& matrix, ByteWriter& out) {
  const Scheme& scheme = matrix.scheme;
  out.value(scheme.element);  // one by one: equal bytes, as there is no padding
  out.value(scheme.bits);
  out.value(scheme.symmetric);
  out.value(scheme.group_size);
  out.value(scheme.scale_type);
  out.value(matrix.rows);
  out.value(matrix.columns);
  out.value(matrix.global_scale);
  out.array(matrix.codes);
  out.array(matrix.scales);
  out.array(matrix.zeros);
}

QuantizedMatrix read_bytes(ByteReader& in) {
  QuantizedMatrix matrix;
  const auto read = [&in](auto& field) {
    field = in.value<std::remove_cvref_t<decltype(field)>>();
  };
  read(matrix.scheme.element);
  read(matrix.scheme.bits);
  read(matrix.scheme.symmetric);
  read(matrix.scheme.group_size);
  read(matrix.scheme.scale_type);
  read(matrix.rows);
  read(matrix.columns);
  read(matrix.global_scale);
  matrix.codes = in.array<std::uint32_t>();
  matrix.scales = in.array<float>();
  matrix.zeros = in.array<std::uint8_t>();
  const ArraySizes sizes = array_sizes(matrix.scheme, matrix.rows, matrix.columns);
  AQ_CHECK(matrix.codes.size() == sizes.codes && matrix.scales.size() == sizes.scales &&
               matrix.zeros.size() == sizes.zeros,
           matrix.codes.size(), " words of codes, ", matrix.scales.size(), " scales, ",
           matrix.zeros.size(), " zeros");
  return matrix;
}

}  // namespace aq
