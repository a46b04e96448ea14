#pragma once
/// Which formats a serving target takes for which parts of a model.

#include <string>
#include <string_view>
#include <vector>

#include "aq/allocate/units.h"
#include "aq/export/servability.h"

namespace aq {

/// How a target would load the result.
struct ServedBy {
  std::string target;  ///< of serving_targets(); empty: anything goes
  ServingPlan plan;
};

/// For each format whether the target takes it for each unit. `whole` holds for each format what is
/// done with every linear when all units have it. Throws Error{usage} with the verdicts where a
/// unit has no format, and where two formats are not taken beside each other: their units in turns.
std::vector<std::vector<bool>> served_formats(const ServedBy& server, const Model& model,
                                              const std::vector<AllocationUnit>& units,
                                              const std::vector<UnitFormat>& formats,
                                              const std::vector<Assignments>& whole);

}  // namespace aq
