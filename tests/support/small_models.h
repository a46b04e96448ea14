#pragma once
/// Models whose sizes do not come out even for row tiles, groups and ranks.

#include "aq/model/model.h"

namespace aq::test {

/// OLMoE of two layers: hidden 192, 17 experts of width 100, top 3; q, k, v and o have 192 rows.
Model small_moe();
/// Mixtral of one layer: hidden 256, 4 key heads of 8, 5 experts of width 130, top 2.
Model small_mixtral();
/// Llama of three layers: hidden 320, MLP 700.
Model small_dense();
/// OLMoE-1B-7B as published: 16 layers of 64 experts.
Model published_moe();

}  // namespace aq::test
