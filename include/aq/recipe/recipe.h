#pragma once
/// The recipe: patterns that say which linear gets which format and method, and the settings of
/// GPTQ.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/recipe/assignments.h"

namespace aq {

/// Keys that people and other tools need and that decide nothing here ("comment", "alpha_hill",
/// ...): each with its value as JSON.
using Annotations = std::map<std::string, std::string>;

/// Keys of "default", of an override or of a module in a flat plan; an absent one leaves what was
/// there.
struct Rule {
  std::string pattern;  ///< fnmatch on the whole dotted module name; in a flat plan the name itself
  std::string path;     ///< of the rule in the file, for messages: "overrides[2]"
  std::optional<std::string> format;  ///< "wq": "int4", ..., or "bf16" (untouched)
  std::optional<Index> group_size;
  std::optional<bool> symmetric;
  std::optional<bool> skip;
  std::optional<Method> method;  ///< gptq or rtn
  std::optional<ScaleType> scale_type;
  std::optional<ScaleRule> scale_rule;
  std::optional<Element> element;         ///< "extra": {"format": "e2m3"}: of a float `wq`
  std::optional<std::string> activation;  ///< "aq": a format, or "bf16" (as they are)
  std::optional<Index> activation_group;  ///< "aq_group_size"; -1: one scale a token
  Annotations annotations;
};

/// A recipe of the form {"default", "overrides", "gptq"}, or a flat plan {module name: scheme}.
struct Recipe {
  std::string file;  ///< where it came from, for messages
  std::string text;  ///< as read
  bool flat = false;
  /// "default", then the overrides in file order; of a flat plan an empty default, then its modules
  /// sorted by name.
  std::vector<Rule> rules;
  QuantizeSettings settings;
  Annotations annotations;           ///< of the file as a whole
  Annotations settings_annotations;  ///< in the object "gptq"
};

/// Throws Error{usage} naming file, place and key, with the nearest valid word, for what is no
/// strict JSON, unknown keys and formats, values of a wrong type or range, and keys of one rule
/// that contradict each other.
Recipe parse_recipe(std::string_view text, const std::string& file);

/// What the recipe says of `linear`. Rules are merged key by key in file order, later wins; `skip`
/// sticks until a later `skip: false`; a rule that changes the format without a group size takes
/// the format's default group. Routers and the head stay as they are unless an override names a
/// format. What was said for another format before is dropped where it does not fit; what is said
/// with the format or later must fit: else throws Error{usage} naming the rule.
Assignment resolve(const Recipe& recipe, const LinearSpec& linear);
/// Resolves every linear of the model: what plans and runs work with.
Assignments assign(const Recipe& recipe, const Model& model);

/// The flat plan that gives the assignments to the model's linears, with the annotations of the
/// recipe's rules that apply to each; read back it gives the same assignments and settings.
std::string flat_plan(const Recipe& recipe, const Assignments& assignments, const Model& model);

/// Overrides whose pattern matches no linear of the model; of a flat plan one remark for all names
/// that are none: "overrides[2]: pattern '*.w1' matches no linear of the model".
std::vector<std::string> unmatched_patterns(const Recipe& recipe, const Model& model);

}  // namespace aq
