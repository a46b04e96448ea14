#pragma once
/// The recipe: which linear gets which format and method, and the settings of GPTQ.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/formats/scheme.h"
#include "aq/model/model.h"
#include "aq/quant/solver.h"

namespace aq {

/// What happens to an expert with fewer than `min_tokens` calibration tokens.
enum class Starved {
  all_tokens,  ///< calibrate it on every token of the layer, each with weight 1
  rtn,         ///< round it to nearest
};

/// Which tokens calibrate a routed expert.
enum class ExpertTokens {
  routed,  ///< its own, each with the weight that the model gives it
  all,     ///< every token of the layer with weight 1
};

/// What the inputs of a linear have gone through when its Hessian is summed.
enum class Sequential {
  stage,  ///< everything before it quantized: o sees quantized q, k, v; down quantized gate and up
  layer,  ///< the layers before it quantized, its own layer original
  none,   ///< the original model; such Hessians can be kept and used for other recipes
};

/// The object "gptq" of a recipe. The keys, their ranges and words: setting_keys().
struct QuantizeSettings {
  GptqSettings gptq;
  double routing_exponent = 1;  ///< p of H = Σ s^p x xᵀ; 0: plain GPTQ
  Starved starved = Starved::all_tokens;
  Index min_tokens = 32;
  ExpertTokens expert_tokens = ExpertTokens::routed;
  Sequential sequential = Sequential::stage;
  bool operator==(const QuantizeSettings&) const = default;
};

/// A key of the object "gptq"; each is also a flag of `quantize`, which wins.
struct SettingKey {
  std::string_view key;   ///< "act_order"; the flag is --act-order
  std::string_view help;  ///< what it does
  std::string values;     ///< "a number in [0, 100]", "none or static"
  std::string initial;    ///< what it is when nobody says anything
};
const std::vector<SettingKey>& setting_keys();
/// Sets a key from the text of a flag. Throws Error{usage} that names the flag and what it takes.
void set_setting(QuantizeSettings& settings, std::string_view key, std::string_view text);
/// Every key, also those that the recipe leaves out: all that decides the result.
std::string settings_to_json(const QuantizeSettings& settings);

/// Keys that people and other tools need and that decide nothing here ("comment", "alpha_hill",
/// ...): each with its value as JSON.
using Annotations = std::map<std::string, std::string>;

/// Keys of "default", of an override or of a module in a flat plan; an absent one leaves what was
/// there.
struct Rule {
  std::string pattern;  ///< fnmatch on the whole dotted module name; in a flat plan the name itself
  std::string path;     ///< of the rule in the file, for messages: "/overrides/2"
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

/// Throws Error{usage} naming file, line and key, with the nearest valid word, for what is no
/// strict JSON, unknown keys and formats, values of a wrong type or range, and keys of one rule
/// that contradict each other.
Recipe parse_recipe(std::string_view text, const std::string& file);

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

/// What the recipe says of `linear`. Rules are merged key by key in file order, later wins; `skip`
/// sticks until a later `skip: false`; a rule that changes the format without a group size takes
/// the format's default group. Routers and the head stay as they are unless an override names a
/// format. What was said for another format before is dropped where it does not fit; what is said
/// with the format or later must fit: else throws Error{usage} naming the rule.
Assignment resolve(const Recipe& recipe, const LinearSpec& linear);

/// The flat plan that says the same of every linear of the model, with the annotations of the rules
/// that apply to it; read back it gives the same assignments and settings.
std::string flat_plan(const Recipe& recipe, const Model& model);

/// What is worth saying of groups that do not divide a row, e.g. "40 matrices with rows of 172:
/// groups of 32, the last of 12" or "4 matrices with rows of 64: one group, not 128 columns".
std::vector<std::string> group_remarks(const Recipe& recipe, const Model& model);

/// Something about a place of the recipe.
struct RecipeRemark {
  std::string place;  ///< "my.json:7"
  std::string text;   ///< "overrides[2]: pattern '*.w1' matches no linear of the model"
};
/// Overrides whose pattern matches no linear of the model; of a flat plan one remark for all names
/// that are none.
std::vector<RecipeRemark> unmatched_patterns(const Recipe& recipe, const Model& model);

}  // namespace aq
