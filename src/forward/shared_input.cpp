#include "aq/forward/shared_input.h"

#include "aq/formats/grid.h"
#include "aq/runtime/operations.h"

namespace aq {

void SharedInput::multiply(const UsedLinear& linear, Tensor out) {
  runtime::linear(seen_by(linear), linear.weight, linear.bias, std::move(out));
}

Tensor SharedInput::multiply(const UsedLinear& linear) {
  Tensor out(values_.rows(), linear.weight.rows());
  multiply(linear, out.window());
  return out;
}

const Tensor& SharedInput::seen_by(const UsedLinear& linear) {
  const runtime::TensorKind kind = linear.weight.kind();
  if (!linear.activation && kind == values_.kind()) return values_;
  for (const Seen& seen : seen_)
    if (seen.activation == linear.activation && seen.values.kind() == kind) return seen.values;
  Tensor values = values_.as(linear.activation ? DType::f32 : kind.dtype);
  if (linear.activation) simulate_dynamic(*linear.activation, values.host());
  if (values.kind() != kind) values = values.as(kind.dtype);
  seen_.push_back({linear.activation, std::move(values)});
  return seen_.back().values;
}

}  // namespace aq
