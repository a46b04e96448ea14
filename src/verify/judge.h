#pragma once
/// A stored matrix beside the weights that it stands for.

#include <optional>

#include "verify/form.h"

namespace aq {

/// What is known of a matrix before its values are looked at.
struct Known {
  Problem problem = {};  ///< of its numbers
  std::string changed;  ///< what differs from what was written ("codes and scales"); empty: nothing
  std::optional<double> logged = {};  ///< ‖W-Q‖² / ‖W‖²
  /// Each value may have been rounded by this share once more since that was logged.
  double rounding = 0;
};

/// What is wrong with it where nothing can be said of its source.
Problem judge_alone(const Known& known);
/// The one thing that is wrong with the matrix: of several the one that says most.
Problem judge(const MatrixForm& form, const Matrix& source, const Known& known);

}  // namespace aq
