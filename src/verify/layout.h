#pragma once
/// What an export has to hold, by the tensors of its source.

#include "aq/io/model_files.h"
#include "verify/form.h"

namespace aq {

/// A matrix as the manifest describes it.
struct PlannedMatrix {
  Scheme scheme;
  std::optional<Scheme> activation = std::nullopt;
  std::optional<double> logged = std::nullopt;  ///< ‖W-Q‖² / ‖W‖² of the run
};
using PlannedMatrices = std::map<std::string, PlannedMatrix>;

/// Tensors that must be there, and what they must hold.
struct ExpectedPiece {
  enum class Holds {
    copy,       ///< the bytes of the tensor `source`
    quantized,  ///< the planned matrix of the one linear
    rounded,    ///< bf16 of the weight that `source` encodes
    bias,       ///< the linear's part of the tensor `source`
    fused,      ///< the linears of all experts in one tensor: bf16, quantized or not; in gpt-oss
                ///< in one of codes and one of scales
  };
  Holds holds = Holds::copy;
  std::string source;
  std::vector<const LinearSpec*> linears = {};  ///< none of an encoded tensor that no linear has
  std::vector<TensorEntry> tensors = {};
};

/// How the form of gpt-oss stores every expert.
inline Scheme gpt_oss_scheme() {
  return *scheme_from_format("mxfp4");
}

/// "bf16", or a layout of the export's format for the matrix.
ServedForm served_form(const std::string& format, bool symmetric, const LinearSpec& linear,
                       const PlannedMatrix& matrix);

/// In the order of the source. `format`: of exports ("compressed-tensors", ...). Encodings of the
/// source (FP8 blocks, MXFP4) go with its quantization_config, and so do their scales.
std::vector<ExpectedPiece> expected_pieces(const ModelFiles& source, const PlannedMatrices& planned,
                                           const std::string& format);

}  // namespace aq
