#pragma once
/// The input of linears that share it (q, k, v; gate, up), as each of them sees it.

#include "aq/forward/weights.h"

namespace aq {

/// Linears without an activation format see the values as they are, the others values rounded per
/// token and group by theirs; each format rounds them once.
class SharedInput {
 public:
  /// `values` [tokens, columns] must outlive this.
  explicit SharedInput(MatrixView<const float> values) : values_(values) {}

  /// out [tokens, rows of the weight] = input · weightᵀ + bias.
  void multiply(const UsedLinear& linear, MatrixView<float> out);

 private:
  struct Rounded {
    Scheme scheme;
    Matrix values;
  };
  MatrixView<const float> seen_by(const UsedLinear& linear);

  MatrixView<const float> values_;
  std::vector<Rounded> rounded_;
};

}  // namespace aq
