#pragma once
/// How a matrix is stored: element, symmetry, groups and the type of the scales.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"
#include "aq/formats/element.h"

namespace aq {

/// Type in which a scale is stored. A scale is rounded to it before the codes are chosen, so that
/// what is propagated is what is stored. e8m0: a power of two in 8 bits, of the MX formats. e4m3:
/// of nvfp4, in units of 1 / (the global scale of the matrix).
enum class ScaleType : std::uint8_t { f32, f16, bf16, e8m0, e4m3 };

std::string_view scale_type_name(ScaleType type);  ///< "fp32", "fp16", "bf16", "e8m0", "e4m3"
std::optional<ScaleType> scale_type_from_name(std::string_view name);
int scale_type_bits(ScaleType type);
/// Positive `scale` as a value of `type`: nearest even, never infinite and never 0. At least 2^-126
/// with fp32 and bf16 (so that 1 / scale is finite), the least value with fp16 (2^-24), e8m0
/// (2^-127) and e4m3 (2^-9).
float round_scale(ScaleType type, float scale);

/// How the exponent X of an E8M0 scale 2^X follows from a group's largest magnitude (OCP MX 1.0,
/// 6.3): `ocp` floor(log2(absmax)) - emax, which lets the largest elements saturate; `ceil` the
/// least X at which nothing saturates; `best` of the two, by squared error.
enum class ScaleRule : std::uint8_t { ocp, ceil, best };
std::string_view scale_rule_name(ScaleRule rule);
std::optional<ScaleRule> scale_rule_from_name(std::string_view name);

inline constexpr Index kPerChannel = -1;  ///< one group: the whole row
inline constexpr Index kPerTensor = 0;    ///< one scale for the whole matrix

/// Integers: value = (code - zero) * scale, code in [0, 2^bits). Symmetric: zero = 2^(bits-1).
/// Asymmetric: one zero in [0, 2^bits) a group. Floats: value = element(code) * scale, symmetric.
struct Scheme {
  Element element = Element::integer;
  int bits = 4;  ///< of a code; floats: those of the element
  bool symmetric = true;
  Index group_size = 128;  ///< columns that share a scale, or kPerChannel, or kPerTensor
  ScaleType scale_type = ScaleType::bf16;

  bool operator==(const Scheme&) const = default;

  bool is_float() const { return element != Element::integer; }
  bool is_mx() const { return scale_type == ScaleType::e8m0; }
  bool is_nvfp4() const { return scale_type == ScaleType::e4m3; }
};

/// Names of the formats of a recipe's `wq` and `aq`, in the order of the documentation: "int2" ...
/// "int8", "fp4", "fp6", "fp6_e2m3", ..., "mxfp4", ..., "nvfp4".
const std::vector<std::string_view>& format_names();
/// The scheme of a format name with its default group size; nothing for an unknown name.
std::optional<Scheme> scheme_from_format(std::string_view name);
/// The format of the same kind (fp6, mxfp8, ...) with another element of as many bits; nothing
/// where there is none: integers, or an element of another width.
std::optional<Scheme> with_element(const Scheme& scheme, Element element);
std::string format_name(const Scheme& scheme);  ///< "int4", "mxfp6_e2m3"
/// "int4 g128", "int3 g32 asymmetric", "int8 per-channel", "mxfp4 g64 (not OCP)"
std::string to_string(const Scheme& scheme);
/// Why no matrix can be stored so, e.g. "groups of mxfp4 are multiples of 32"; empty when it can.
std::string scheme_problem(const Scheme& scheme);

/// Columns of one group in a row of `columns`: the last group may be shorter.
Index group_width(const Scheme& scheme, Index columns);
/// Groups in a row of `columns` (1 for per channel and per tensor).
Index group_count(const Scheme& scheme, Index columns);
/// Stored scales (and zeros) of a matrix: rows * groups, or 1 per tensor.
Index scale_count(const Scheme& scheme, Index rows, Index columns);
/// Bits that the matrix takes (codes with row padding, scales, zeros), for mean bits a weight.
Index stored_bits(const Scheme& scheme, Index rows, Index columns);

}  // namespace aq
