#pragma once
/// Which format each unit gets: a multiple-choice knapsack, solved exactly.

#include <optional>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// What a unit takes in a format, and what the model loses by it.
struct UnitOption {
  Index bits = 0;
  double loss = 0;
  bool allowed = true;
};

/// For each unit the number of its option, such that the sum of losses is the least that
/// `most_bits` allow, and among equal ones the bits; nothing where even the smallest options take
/// more. Dynamic programming over the units: of all ways to choose for the units so far it keeps
/// those that no other one beats in both bits and loss (Nemhauser and Ullmann 1969), as far as they
/// may still lead to the best. Deterministic.
/// @pre every unit has an allowed option
std::optional<std::vector<Index>> choose_options(const std::vector<std::vector<UnitOption>>& units,
                                                 Index most_bits);

}  // namespace aq
