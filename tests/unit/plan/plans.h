#pragma once
/// Plans of small models, and what is seen of them.

#include "aq/plan/plan.h"
#include "aq/recipe/recipe.h"
#include "support/small_models.h"

namespace aq::test {

/// `sequences` of `length` tokens in the default number of lanes.
Workload workload(Index sequences, Index length);

/// make_plan with what the recipe says of the model.
Plan plan_of(const Model& model, const Recipe& recipe, int ranks, const Workload& workload,
             const PlanLimits& limits);

/// Everything in the plan, as text, so that two can be compared.
std::string plan_text(const Plan& plan);

/// The stages of a layer in order of work.
std::vector<const StagePlan*> stages_of(const LayerPlan& layer);
/// All stages of the plan, the head's last.
std::vector<const StagePlan*> stages_of(const Plan& plan);

}  // namespace aq::test
