#pragma once
/// What servers ask of the matrices of a checkpoint: a rule a row, each with its source.

#include <string_view>
#include <vector>

#include "aq/export/servability.h"
#include "export/alike.h"

namespace aq {

/// What a rule looks at.
struct ServingCase {
  const Model& model;
  const Assignments& assignments;
  const ServingPlan& plan;
  std::string_view format;  ///< of the export

  bool quantized(const LinearSpec& linear) const;
  const Scheme& scheme(const LinearSpec& linear) const;
  /// How the inputs are rounded.
  const std::optional<Scheme>& inputs(const LinearSpec& linear) const;
};

struct ServingRule {
  unsigned targets;  ///< bits of ServingTarget
  Gravity gravity;
  std::string_view text, source;
  Linears (*broken_by)(const ServingCase&);
};
const std::vector<ServingRule>& serving_rules();

struct ServingTarget {
  std::string_view name;
  unsigned bit;
  std::string_view format;  ///< of the export that it reads
  /// Linears that it wants alike; a linear is in one set at most.
  std::vector<Linears> (*alike)(const Model&);
};
/// Throws Error{usage} for an unknown name.
const ServingTarget& serving_target(std::string_view name);

struct BrokenRule {
  const ServingRule* rule = nullptr;
  Linears linears;
};
std::vector<BrokenRule> broken_rules(const ServingTarget& target, const Model& model,
                                     const Assignments& assignments, const ServingPlan& plan);

}  // namespace aq
