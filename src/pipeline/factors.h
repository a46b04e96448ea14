#pragma once
/// The factors of a stage: made by the owners of the tasks, shared with the ranks that solve rows.

#include <map>
#include <tuple>

#include "pipeline/stage.h"

namespace aq {

/// Whether the rank solves rows of some matrix of the task.
bool has_rows(const TaskPlan& task, int rank);

/// Factors this rank's own tasks of the chunk and frees their sums.
void factor_own(StageContext& context, const StagePlan& stage, std::span<const std::size_t> chunk,
                std::vector<TaskSum>& sums, std::vector<Factor>& factors);

/// Sends the factors of split tasks from their owners to the other ranks that solve rows of them.
/// Collective.
void share_factors(StageContext& context, const StagePlan& stage, std::vector<Factor>& factors);

/// Output factors of the slices that a rank solves, by task, matrix and first row.
using SliceOutputs = std::map<std::tuple<std::size_t, std::size_t, Index>, Matrix>;

/// Those of this rank, which come out of the owners' sums. Collective.
SliceOutputs share_output_factors(StageContext& context, const StagePlan& stage,
                                  std::vector<TaskSum>& sums);

}  // namespace aq
