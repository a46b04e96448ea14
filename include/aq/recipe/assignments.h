#pragma once
/// What is done with every linear of a model: a recipe without its patterns.

#include <optional>
#include <string>
#include <vector>

#include "aq/formats/scheme.h"
#include "aq/model/model.h"
#include "aq/recipe/settings.h"

namespace aq {

/// What is done with one linear.
struct Assignment {
  Method method = Method::copy;
  Scheme scheme = {};  ///< meaningless for Method::copy
  ScaleRule scale_rule = ScaleRule::best;
  /// How the inputs of the linear are rounded when it is served: simulated by `eval`. Scales are
  /// found on the fly, so those of integers and floats are fp32.
  std::optional<Scheme> activation = std::nullopt;
  bool operator==(const Assignment&) const = default;
};

/// "untouched", "gptq int4 g128, scales bf16", "rtn mxfp4 g32, scales e8m0 (best), inputs int8
/// g128". Different assignments have different texts.
std::string to_string(const Assignment& assignment);

/// Of all linears of one model, and the settings that go for all of them.
struct Assignments {
  QuantizeSettings settings;
  std::vector<Assignment> linears;  ///< by LinearSpec::id

  /// @pre the linear is of the model
  const Assignment& of(const LinearSpec& linear) const;
};

/// What is worth saying of groups that do not divide a row, e.g. "40 matrices with rows of 172:
/// groups of 32, the last of 12" or "4 matrices with rows of 64: one group, not 128 columns".
std::vector<std::string> group_remarks(const Assignments& assignments, const Model& model);

}  // namespace aq
