#include "aq/plan/choose.h"

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

constexpr TokensToExperts kWays[] = {TokensToExperts::automatic, TokensToExperts::reduce,
                                     TokensToExperts::dispatch};

/// Dispatch must be estimated to take less than this share of reduce's time: estimates know neither
/// the skew of routing, which it feels more, nor what a wave costs by itself.
constexpr double kWorth = 0.95;

}  // namespace

std::string_view tokens_to_experts_name(TokensToExperts way) {
  switch (way) {
    case TokensToExperts::automatic:
      return "auto";
    case TokensToExperts::reduce:
      return "reduce";
    case TokensToExperts::dispatch:
      return "dispatch";
  }
  return "?";
}

std::optional<TokensToExperts> tokens_to_experts_from_name(std::string_view name) {
  for (const TokensToExperts way : kWays)
    if (name == tokens_to_experts_name(way)) return way;
  return std::nullopt;
}

ChosenPlan choose_plan(TokensToExperts asked, const Model& model, const Assignments& assignments,
                       int ranks, const Workload& workload, PlanLimits limits,
                       const CostOptions& options) {
  const auto plan_in = [&](bool dispatch, std::string reason) {
    limits.dispatch = dispatch;
    Plan plan = make_plan(model, assignments, ranks, workload, limits);
    CostEstimate cost = estimate_cost(model, assignments.settings, plan, workload, options);
    return ChosenPlan{std::move(plan), std::move(cost), std::move(reason)};
  };
  if (model.moe_layers().empty()) {
    if (asked == TokensToExperts::dispatch)
      throw Error(ErrorKind::policy, "plan the run", "--tokens-to-experts dispatch",
                  "the model has no routed experts", "use reduce");
    return plan_in(false, "there are no routed experts");
  }
  if (asked != TokensToExperts::automatic)
    return plan_in(asked == TokensToExperts::dispatch, "it was asked for");
  if (ranks < 2) return plan_in(false, "there is nothing to bring together");
  if (assignments.settings.expert_tokens == ExpertTokens::all)
    return plan_in(false, "every expert is calibrated on all tokens");
  std::optional<ChosenPlan> dispatch;
  try {
    dispatch = plan_in(true, "");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::policy) throw;
    return plan_in(false, "the other way does not fit the memory");
  }
  std::optional<ChosenPlan> reduce;
  try {
    reduce = plan_in(false, "");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::policy) throw;
    dispatch->reason = "the other way does not fit the memory";
    return *std::move(dispatch);
  }
  const double there = dispatch->cost.total_seconds, here = reduce->cost.total_seconds;
  ChosenPlan& better = there < kWorth * here ? *dispatch : *reduce;
  better.reason = str("estimated ", duration_text(better.cost.total_seconds), " against ",
                      duration_text(there + here - better.cost.total_seconds), " of the other way");
  return std::move(better);
}

}  // namespace aq
