#pragma once
/// What follows from a run's log: figures by kind of linear, by layer and by expert.

#include <map>
#include <string>
#include <vector>

#include "aq/page/run_report.h"

namespace aq {

/// Of the matrices whose error was measured: those with a Hessian.
struct ErrorMean {
  double error_sum = 0, rtn_sum = 0, worst = 0;
  Index matrices = 0;

  void add(const MatrixStats& stats);
  double error() const;  ///< NaN without any
  double rtn() const;
};

struct KindFigures {
  Index matrices = 0;
  double weights = 0, bits = 0;  ///< bits of all of them together
  double stored_bytes = 0;       ///< in the checkpoint; NaN: not known
  ErrorMean all;
  std::map<Index, ErrorMean> by_layer;  ///< -1: outside the layers
};

/// One routed expert.
struct ExpertFigures {
  Index tokens = -1;  ///< that the router sent to it; negative: not known
  double weight = 0;  ///< sum of s^p of these; NaN: not known
  ErrorMean errors;
  double weights = 0, bits = 0;
  bool starved = false;
  std::string fallback = "none";  ///< of its first matrix that has one
};

struct RunFigures {
  RunSummary summary;
  std::vector<std::string> kinds;  ///< in the order of the model
  std::map<std::string, KindFigures> by_kind;
  std::map<Index, std::vector<ExpertFigures>> experts;  ///< of layers with experts
  Index expert_count = 0;
  Index unused_experts = 0;  ///< without a token, as far as known
  Index not_finite = 0;      ///< matrices with a figure that is not finite
  Index as_zeros = 0;        ///< matrices as far off as zeros would be
  Index worse_than_rtn = 0, unmeasured = 0;
  double weights = 0, bits = 0, stored_bytes = 0;  ///< of all quantized matrices

  double error_ratio() const;  ///< NaN without any error
};

RunFigures figures_of(const RunReport& run);

/// A key of the recipe's settings as JSON text; empty where it is not known.
std::string setting(const RunReport& run, const std::string& key);

}  // namespace aq
