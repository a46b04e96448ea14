#pragma once
/// Routing-weighted Hessian sums of this rank's lanes (design: H = Σ s^p x xᵀ over an expert's
/// tokens). Threads take experts or lanes, or tiles of a sum where there are fewer of both.

#include "aq/forward/expert_pass.h"
#include "aq/forward/linear_input.h"
#include "aq/quant/solver.h"

namespace aq {

using LanePartials = std::vector<TreeSum::Partial>;

/// The sums of one task.
struct TaskPartials {
  LanePartials hessian;
  LanePartials cross;          ///< Solver::add_cross; empty without a second stream
  LanePartials output_factor;  ///< sum_outputs; empty without output factors
};

/// d of a cross sum: what tokens `rows` lack, whose inputs are x (float32).
using Lack = std::function<Tensor(const Tensor& x, Range rows)>;
/// How their inputs in the original model differ.
Lack input_lack(LinearInput original);

/// Every token with weight 1, sequence by sequence: attention, routers, the head.
/// @param lack  may be empty
TaskPartials sum_tokens(const Solver& solver, const Batch& batch, const LinearInput& input,
                        const Lack& lack);

/// The tokens that calibrate an expert.
enum class CalibratedOn {
  routed,   ///< its own, each with the weight that the model gives it
  all,      ///< every token of the layer with weight 1
  nothing,  ///< none: it is rounded
};

/// An expert and the tokens that its Hessian is summed over.
struct CalibratedExpert {
  Index expert = 0;
  CalibratedOn tokens = CalibratedOn::routed;
};

/// How the experts of a pass are summed.
struct ExpertSums {
  const Solver& solver;
  const ExpertPass& pass;
  double exponent;  ///< p of s^p

  /// Of what gate and up read, for each of `experts`.
  std::vector<TaskPartials> gate_up(std::span<const CalibratedExpert> experts) const;
  /// Runs gate and up and sums what down reads, for each of `experts`. With `hidden` all of them
  /// run, and what down reads is kept there.
  std::vector<TaskPartials> down(std::span<const CalibratedExpert> experts, ByExpert* hidden) const;
};

}  // namespace aq
