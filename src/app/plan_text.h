#pragma once
/// What `plan` prints, as text and as JSON.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "aq/model/storage.h"
#include "aq/plan/cost.h"
#include "aq/recipe/recipe.h"

namespace aq::app {

/// Everything that there is to say of one plan.
struct PlanReport {
  const Model& model;
  const Recipe& recipe;
  const Plan& plan;
  const Workload& workload;
  const PlanLimits& limits;
  const CostOptions& options;
  const CostEstimate& cost;
  std::string source;                ///< of the model
  std::vector<std::string> remarks;  ///< on recipe and groups
  std::vector<std::string> choices;
};

std::string plan_text(const PlanReport& report);
nlohmann::ordered_json plan_json(const PlanReport& report);

}  // namespace aq::app
