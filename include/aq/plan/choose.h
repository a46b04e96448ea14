#pragma once
/// Which way a run goes: both are planned; dispatch is taken where it is clearly faster by
/// estimate.

#include <optional>
#include <string>

#include "aq/plan/cost.h"

namespace aq {

/// --tokens-to-experts (dispatch.h).
enum class TokensToExperts { automatic, reduce, dispatch };
std::string_view tokens_to_experts_name(TokensToExperts way);
std::optional<TokensToExperts> tokens_to_experts_from_name(std::string_view name);

struct ChosenPlan {
  Plan plan;
  CostEstimate cost;
  std::string reason;  ///< for the way, in words
};

/// Plans the way that was asked for, or the better one. `options` describe the machine that seconds
/// are compared for. Throws Error{policy} as make_plan, and when dispatch is asked of a model
/// without routed experts.
ChosenPlan choose_plan(TokensToExperts asked, const Model& model, const Assignments& assignments,
                       int ranks, const Workload& workload, PlanLimits limits,
                       const CostOptions& options);

/// Why the plan is as it is and what limits it, a sentence each.
std::vector<std::string> explain_plan(const Model& model, const ChosenPlan& chosen,
                                      const PlanLimits& limits, const CostOptions& options);

}  // namespace aq
