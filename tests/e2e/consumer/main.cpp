// Quantizes one matrix with GPTQ against the Hessian of its inputs, through the installed library.
#include <cmath>
#include <iostream>

#include "aq/quant/solver.h"

int main() {
  const aq::Index rows = 64, columns = 96, tokens = 300;
  aq::Matrix weight(rows, columns), inputs(tokens, columns);
  for (aq::Index i = 0; i < rows * columns; ++i)
    weight.values[i] = std::sin(0.37f * static_cast<float>(i));
  for (aq::Index i = 0; i < tokens * columns; ++i)
    inputs.values[i] = std::sin(0.11f * static_cast<float>(i * i % 997));

  const aq::Solver& solver = aq::default_solver();
  std::vector<aq::FactorTask> sums(1);
  sums[0].columns = columns;
  solver.add_tokens(sums[0].sum, inputs.view(), {}, {}, static_cast<double>(tokens));
  solver.factorize(sums, {});
  const aq::Factor& factor = sums[0].factor;

  std::vector<aq::SolveTask> tasks(1);
  tasks[0].weight = weight.view();
  tasks[0].scheme = {.bits = 4, .group_size = 32};
  tasks[0].factor = &factor;
  solver.solve(tasks, {});

  aq::Matrix stored(rows, columns);
  aq::dequantize(tasks[0].result, stored.view());
  double difference = 0, norm = 0;
  for (aq::Index i = 0; i < rows * columns; ++i) {
    difference += std::pow(stored.values[i] - weight.values[i], 2);
    norm += std::pow(weight.values[i], 2);
  }
  std::cout << "relative difference " << std::sqrt(difference / norm) << "\n";
  return factor.usable() && difference > 0 && difference < 0.05 * norm ? 0 : 1;
}
