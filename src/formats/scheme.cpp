#include "aq/formats/scheme.h"

#include <array>

#include "aq/core/error.h"
#include "aq/formats/grid_math.h"
#include "aq/formats/quantized_matrix.h"

namespace aq {
namespace {

constexpr std::array<std::string_view, 3> kScaleTypeNames = {"fp32", "fp16", "bf16"};
constexpr int kFewestBits = 2;

}  // namespace

std::string_view scale_type_name(ScaleType type) {
  return kScaleTypeNames[static_cast<std::size_t>(type)];
}

std::optional<ScaleType> scale_type_from_name(std::string_view name) {
  for (std::size_t i = 0; i < kScaleTypeNames.size(); ++i) {
    if (kScaleTypeNames[i] == name) return static_cast<ScaleType>(i);
  }
  return std::nullopt;
}

float round_scale(ScaleType type, float scale) {
  return round_scale_inline(type, scale);
}

const std::vector<std::string_view>& format_names() {
  static const std::vector<std::string_view> names = {"int2", "int3", "int4", "int5",
                                                      "int6", "int7", "int8"};
  return names;
}

std::optional<Scheme> scheme_from_format(std::string_view name) {
  const auto& names = format_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return Scheme{.bits = static_cast<int>(i) + kFewestBits};
  }
  return std::nullopt;
}

std::string format_name(const Scheme& scheme) {
  return str("int", scheme.bits);
}

std::string to_string(const Scheme& scheme) {
  std::string text = format_name(scheme);
  if (scheme.group_size == kPerChannel) {
    text += " per-channel";
  } else if (scheme.group_size == kPerTensor) {
    text += " per-tensor";
  } else {
    text += str(" g", scheme.group_size);
  }
  return scheme.symmetric ? text : text + " asymmetric";
}

Index group_width(const Scheme& scheme, Index columns) {
  const bool whole_row = scheme.group_size <= 0 || scheme.group_size > columns;
  return whole_row ? columns : scheme.group_size;
}

Index group_count(const Scheme& scheme, Index columns) {
  return columns == 0 ? 0 : ceil_div(columns, group_width(scheme, columns));
}

Index scale_count(const Scheme& scheme, Index rows, Index columns) {
  return scheme.group_size == kPerTensor ? 1 : rows * group_count(scheme, columns);
}

Index stored_bits(const Scheme& scheme, Index rows, Index columns) {
  const Index scale_bits = scheme.scale_type == ScaleType::f32 ? 32 : 16;
  const Index zero_bits = scheme.symmetric ? 0 : 8;
  return rows * words_per_row(scheme.bits, columns) * 32 +
         scale_count(scheme, rows, columns) * (scale_bits + zero_bits);
}

}  // namespace aq
