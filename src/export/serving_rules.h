#pragma once
/// What servers ask of the matrices of a checkpoint: a rule a row, each with its source.

#include <functional>
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

/// All quantized linears for which `breaks` holds.
Linears where(const ServingCase& c,
              const std::function<bool(const LinearSpec&, const Scheme&)>& breaks);

// Parts of matrices on ranks.
Linears cut_groups(const ServingCase& c);
/// Untouched ones too. Heads of attention stay whole.
Linears not_cut(const ServingCase& c);
Linears cut_zeros(const ServingCase& c);
Linears experts_that_do_not_spread(const ServingCase& c);

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
  std::string_view format;  ///< of the export that it reads of most models
  /// Linears that it wants alike; a linear is in one set at most.
  std::vector<Linears> (*alike)(const Model&);
};
/// Throws Error{usage} for an unknown name.
const ServingTarget& serving_target(std::string_view name);

/// The export that the target reads of this model: the experts of gpt-oss in their own form where
/// they fit into it.
std::string_view format_for(const ServingTarget& target, const Model& model,
                            const Assignments& assignments);

struct BrokenRule {
  const ServingRule* rule = nullptr;
  Linears linears;
};
std::vector<BrokenRule> broken_rules(const ServingTarget& target, const Model& model,
                                     const Assignments& assignments, const ServingPlan& plan);

}  // namespace aq
