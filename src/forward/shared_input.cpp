#include "aq/forward/shared_input.h"

#include <algorithm>

#include "aq/formats/grid.h"
#include "aq/runtime/pieces.h"

namespace aq {

void SharedInput::multiply(const UsedLinear& linear, MatrixView<float> out) {
  runtime::linear(seen_by(linear), linear.weight.view(), out);
  if (!linear.bias.empty()) runtime::add_bias(linear.bias, out);
}

MatrixView<const float> SharedInput::seen_by(const UsedLinear& linear) {
  if (!linear.activation) return values_;
  for (const Rounded& done : rounded_)
    if (done.scheme == *linear.activation) return done.values.view();
  Rounded rounded{*linear.activation, Matrix(values_.rows, values_.columns)};
  for (Index r = 0; r < values_.rows; ++r)
    std::copy(values_.row(r).begin(), values_.row(r).end(), rounded.values.view().row(r).begin());
  simulate_dynamic(rounded.scheme, rounded.values.view());
  rounded_.push_back(std::move(rounded));
  return rounded_.back().values.view();
}

}  // namespace aq
