#pragma once
/// The parts of a model that get a format each: what is spread is bits over these.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/model/model.h"
#include "aq/recipe/recipe.h"

namespace aq {

/// Linears that get one format together.
struct AllocationUnit {
  std::string name;                        ///< "layer 3 attention"
  std::vector<const LinearSpec*> linears;  ///< in the order of the model
};

/// Attention, routed experts, shared expert or dense MLP of each layer, and a router or the head
/// where the recipe quantizes it; parts that the serving target wants alike (docs/serving.md) are
/// one. Linears that `assignments` leaves untouched are in none.
/// @param target  of serving_targets(); empty: none. Throws Error{usage} for an unknown one.
std::vector<AllocationUnit> allocation_units(const Model& model, const Assignments& assignments,
                                             std::string_view target);

/// What stands for the unit in files: its name, and a hash of its linears'.
std::string unit_key(const AllocationUnit& unit);

/// For each unit patterns that match its linears and no other one of the model: one for all of them
/// where that is possible, else one a module of the layer, else their names.
std::vector<std::vector<std::string>> unit_patterns(const std::vector<AllocationUnit>& units,
                                                    const Model& model);

/// A format with its group: what a unit may get.
struct UnitFormat {
  std::string text;                           ///< as given: "int3:32"
  std::string format;                         ///< "int3", or "bf16": as it is
  std::optional<Index> group = std::nullopt;  ///< of Scheme; nothing for bf16
};
/// Throws Error{usage} naming `option` for an unknown format or a group that it cannot have.
UnitFormat parse_unit_format(const std::string& text, std::string_view option);

/// A rule behind those of a recipe.
struct UnitRule {
  std::string pattern;
  const UnitFormat* format = nullptr;
  std::string comment;  ///< empty: none
};
/// The recipe as JSON with further overrides, and with a summary where there is one. Throws
/// Error{usage} for a flat plan.
std::string recipe_with(const Recipe& recipe, const std::vector<UnitRule>& rules,
                        const std::string& summary = {});

}  // namespace aq
