#pragma once
/// What the forward pass and the sums of Hessians take, and how often they run.

#include "aq/plan/cost.h"

namespace aq {

/// Where the weights of a stage's forward pass come from, and how often it runs.
struct ForwardUse {
  double quantized = 1;  ///< passes with the results
  double original = 0;   ///< passes with the checkpoint's weights
};
ForwardUse forward_use(const QuantizeSettings& settings, Stage stage);

/// Pairs of query and key that causal attention multiplies in a sequence of so many tokens; the
/// tile on the diagonal is computed whole.
double attention_pairs(const AttentionSpec& spec, double length);
/// Multiplications of one pair in one head, in all passes.
/// @param differentiates  for output factors: scores again, and two products back through each
double attention_products(const AttentionSpec& spec, const QuantizeSettings& settings,
                          bool differentiates);

/// What the forward pass and the sum of one task take.
struct TaskForward {
  double products = 0;   ///< operations a token of the sum
  double weights = 0;    ///< times passes
  double unpacked = 0;   ///< bytes
  double originals = 0;  ///< bytes read
  double kept = 0;       ///< bytes of the sums, where they are written
};
TaskForward forward_of(const TaskPlan& task, ForwardUse use, const CostOptions& options);

}  // namespace aq
