#pragma once
/// What is said of every quantized matrix: stored with it, logged, summed up.

#include <string>

#include "aq/core/index.h"
#include "aq/quant/solver.h"

namespace aq {

struct MatrixStats {
  Index layer = -1;
  Index expert = -1;
  Method method = Method::gptq;  ///< what was really done
  std::int64_t tokens = 0;       ///< calibration tokens of its Hessian
  double weight_sum = 0;         ///< Σ s^p
  double damping = 0;            ///< share of the mean diagonal
  double error = 0;      ///< ‖(W-Q)U‖² / ‖WU‖² on the sampled rows; 0 without a Hessian
  double error_rtn = 0;  ///< the same of round to nearest
  double weight_error = -1;  ///< ‖W-Q‖² / ‖W‖²; negative: not known, of an older build
  /// "none", "starved_all_tokens", "starved_rtn", "more_damping", "float64", "rtn",
  /// "scale_range"
  std::string fallback = "none";
  /// Scales that float16 does not reach: its largest value is stored, or its least.
  std::int64_t scales_above = 0, scales_below = 0;
};

std::string stats_to_json(const MatrixStats& stats);
/// Throws Error{input} naming `object`.
MatrixStats stats_from_json(const std::string& text, const std::string& object);

}  // namespace aq
