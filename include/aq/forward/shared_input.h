#pragma once
/// The input of linears that share it (q, k, v; gate, up), as each of them sees it.

#include <list>

#include "aq/forward/weights.h"

namespace aq {

/// Linears without an activation format see the values as they are, the others values rounded per
/// token and group by theirs; all see them with the elements of their weights. Each form is made
/// once.
class SharedInput {
 public:
  /// `values` [tokens, columns].
  explicit SharedInput(const Tensor& values) : values_(values.window()) {}

  /// out [tokens, rows of the weight] = input · weightᵀ + bias.
  void multiply(const UsedLinear& linear, Tensor out);
  Tensor multiply(const UsedLinear& linear);

 private:
  struct Seen {
    std::optional<Scheme> activation;
    Tensor values;
  };
  const Tensor& seen_by(const UsedLinear& linear);

  const Tensor values_;
  std::list<Seen> seen_;
};

}  // namespace aq
