#pragma once
/// How a matrix is stored: element format, symmetry, groups and the type of the scales.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Type in which a scale is stored. A scale is rounded to it before the codes are chosen, so that
/// what is propagated is what is stored.
enum class ScaleType { f32, f16, bf16 };

std::string_view scale_type_name(ScaleType type);  ///< "fp32", "fp16", "bf16"
std::optional<ScaleType> scale_type_from_name(std::string_view name);
/// Positive `scale` as a value of `type`: nearest even, never infinite and never 0. At least 2^-126
/// with fp32 and bf16 (so that 1 / scale is finite) and 2^-24, the least value, with fp16.
float round_scale(ScaleType type, float scale);

inline constexpr Index kPerChannel = -1;  ///< one group: the whole row
inline constexpr Index kPerTensor = 0;    ///< one scale for the whole matrix

/// Integer formats: value = (code - zero) * scale, code in [0, 2^bits).
/// Symmetric: zero = 2^(bits-1). Asymmetric: one zero in [0, 2^bits) a group.
struct Scheme {
  int bits = 4;
  bool symmetric = true;
  Index group_size = 128;  ///< columns that share a scale, or kPerChannel, or kPerTensor
  ScaleType scale_type = ScaleType::bf16;

  bool operator==(const Scheme&) const = default;
};

/// Names of the formats of a recipe's `wq`, in the order of the documentation: "int2" ... "int8".
const std::vector<std::string_view>& format_names();
/// The scheme of a format name with its default group size; nothing for an unknown name.
std::optional<Scheme> scheme_from_format(std::string_view name);
std::string format_name(const Scheme& scheme);  ///< "int4"
std::string to_string(
    const Scheme& scheme);  ///< "int4 g128", "int3 g32 asymmetric", "int8 per-channel"

/// Columns of one group in a row of `columns`: the last group may be shorter.
Index group_width(const Scheme& scheme, Index columns);
/// Groups in a row of `columns` (1 for per channel and per tensor).
Index group_count(const Scheme& scheme, Index columns);
/// Stored scales (and zeros) of a matrix: rows * groups, or 1 per tensor.
Index scale_count(const Scheme& scheme, Index rows, Index columns);
/// Bits that the matrix takes (codes with row padding, scales, zeros), for mean bits a weight.
Index stored_bits(const Scheme& scheme, Index rows, Index columns);

}  // namespace aq
