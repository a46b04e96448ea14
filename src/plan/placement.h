#pragma once
/// Placement of a stage's tasks on ranks.

#include "aq/plan/plan.h"

namespace aq {

/// Floating point operations of a task: factor n^3/3 and, per quantized row, n^2.
double task_cost(const TaskPlan& task);
/// Sets owner, split, slices and the stage's balance. `rotation` shifts the ranks, so that stages
/// of one task do not all fall to the same rank. `sweeps` of refinement make dealing rows to more
/// ranks worth it.
void place_stage(StagePlan& stage, int ranks, int rotation, int sweeps = 0);
/// The whole task on one rank.
void place_whole(TaskPlan& task, int rank);
/// Takes a task from its ranks, to place it again.
void forget_place(TaskPlan& task);
/// Of tasks that are placed: mean work of a rank / work of the busiest one.
double placed_balance(const StagePlan& stage, int ranks);

}  // namespace aq
