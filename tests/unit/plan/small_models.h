#pragma once
/// Models for plans: sizes on which row tiles, groups and ranks do not come out even.

#include "aq/model/model.h"
#include "aq/plan/plan.h"

namespace aq::test {

/// OLMoE of two layers: hidden 192, 17 experts of width 100, top 3; q, k, v and o have 192 rows.
Model small_moe();
/// Mixtral of one layer: hidden 256, 4 key heads of 8, 5 experts of width 130, top 2.
Model small_mixtral();
/// Llama of three layers: hidden 320, MLP 700.
Model small_dense();
/// OLMoE-1B-7B as published: 16 layers of 64 experts.
Model published_moe();

/// `sequences` of `length` tokens in the default number of lanes.
Workload workload(Index sequences, Index length);

/// Everything in the plan, as text, so that two can be compared.
std::string plan_text(const Plan& plan);

/// The stages of a layer in order of work.
std::vector<const StagePlan*> stages_of(const LayerPlan& layer);
/// All stages of the plan, the head's last.
std::vector<const StagePlan*> stages_of(const Plan& plan);

}  // namespace aq::test
