#include "aq/forward/shared_input.h"

#include "aq/formats/grid.h"
#include "aq/runtime/operations.h"

namespace aq {

void SharedInput::multiply(const UsedLinear& linear, Tensor out) {
  runtime::linear(seen_by(linear), linear.weight, linear.bias, std::move(out));
}

Tensor SharedInput::multiply(const UsedLinear& linear) {
  Tensor out(values_.rows(), linear.weight.rows(), values_.kind());
  multiply(linear, out.window());
  return out;
}

const Tensor& SharedInput::seen_by(const UsedLinear& linear) {
  if (!linear.activation) return values_;
  for (const Rounded& done : rounded_)
    if (done.scheme == *linear.activation) return done.values;
  rounded_.push_back({*linear.activation, values_.clone()});
  simulate_dynamic(rounded_.back().scheme, rounded_.back().values.host());
  return rounded_.back().values;
}

}  // namespace aq
