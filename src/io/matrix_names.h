#pragma once
/// Names of what a matrix file holds. Private to src/io.

#include <string>

#include "aq/formats/scheme.h"
#include "io/hdf5.h"

namespace aq::matrix_file {

inline constexpr const char* kVersionName = "format_version";
inline constexpr const char* kVersion = "1";
inline constexpr const char* kMatrices = "matrices";
inline constexpr const char* kHessians = "hessians";
inline constexpr const char* kCodes = "codes";
inline constexpr const char* kScales = "scales";
inline constexpr const char* kZeros = "zeros";
inline constexpr const char* kGlobalScale = "global_scale";
inline constexpr const char* kUpper = "upper";
inline constexpr const char* kCross = "cross";
inline constexpr const char* kOutputFactor = "output_factor";
inline constexpr const char* kWeightSum = "weight_sum";
inline constexpr const char* kTokens = "tokens";
inline constexpr const char* kUsedBy = "used_by";
inline constexpr const char* kStarved = "starved";
inline constexpr const char* kScheme = "scheme";
inline constexpr const char* kShape = "shape";
inline constexpr const char* kStats = "stats";
inline constexpr const char* kActivation = "activation";
inline constexpr const char* kEncoding = "encoding";
inline constexpr const char* kCount = "count";  // of the groups `matrices` and `hessians`
inline constexpr const char* kChecksum = "checksum";

/// HDF5 type in which scales are stored; bf16, e8m0 and e4m3 as their bits, with attribute
/// `encoding`.
inline hdf5::Type stored_scale_type(ScaleType type) {
  switch (type) {
    case ScaleType::f32:
      return hdf5::Type::f32;
    case ScaleType::f16:
      return hdf5::Type::f16;
    case ScaleType::bf16:
      return hdf5::Type::u16;
    default:
      return hdf5::Type::u8;
  }
}
/// The attribute `encoding` of scales that HDF5 has no type for; empty for the others.
inline std::string scale_encoding(ScaleType type) {
  const bool plain = type == ScaleType::f32 || type == ScaleType::f16;
  return plain ? "" : std::string(scale_type_name(type));
}

/// `[rows, groups]`; per tensor `[1, 1]`.
inline std::vector<Index> scale_shape(const Scheme& scheme, Index rows, Index columns) {
  if (scheme.group_size == kPerTensor) return {1, 1};
  return {rows, group_count(scheme, columns)};
}

}  // namespace aq::matrix_file
