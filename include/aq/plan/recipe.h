#pragma once
/// The recipe: which linear gets which format and method, and the settings of GPTQ.

#include <filesystem>
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

/// The object "gptq" of a recipe; every key is also a flag of `quantize`, which wins.
struct QuantizeSettings {
  /// Keys "damping", "block", "refine", "act_order" ("none", "static"), "scale_search".
  GptqSettings gptq;
  double routing_exponent = 1;  ///< p of H = Σ s^p x xᵀ; 0: plain GPTQ
  Starved starved = Starved::all_tokens;
  Index min_tokens = 32;
  ExpertTokens expert_tokens = ExpertTokens::routed;
  Sequential sequential = Sequential::stage;
  bool operator==(const QuantizeSettings&) const = default;
};

/// Keys of "default" and of an override; an absent one leaves what was there.
struct Rule {
  std::string pattern;  ///< fnmatch on the whole dotted module name; "*" for "default"
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
};

struct Recipe {
  std::string file;  ///< where it came from, for messages
  std::string text;  ///< as read
  std::vector<Rule> rules;
  QuantizeSettings settings;
};

/// Throws Error{usage} naming file and key, with the nearest valid word, for unknown keys and
/// formats, duplicate keys and values of a wrong type or range.
Recipe parse_recipe(std::string_view text, const std::string& file);
Recipe read_recipe(const std::filesystem::path& path);

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

/// What the recipe says of `linear`. Rules are merged key by key in file order, later wins; `skip`
/// sticks until a later `skip: false`; a rule that changes the format without a group size takes
/// the format's default group. Routers and the head stay as they are unless an override names a
/// format.
Assignment resolve(const Recipe& recipe, const LinearSpec& linear);

/// The settings as JSON, and all of the recipe that decides the result (not comments or order of
/// keys).
std::string settings_to_json(const QuantizeSettings& settings);
/// What is worth saying of groups that do not divide a row, e.g. "40 matrices with rows of 172:
/// groups of 32, the last of 12" or "4 matrices with rows of 64: one group, not 128 columns".
std::vector<std::string> group_remarks(const Recipe& recipe, const Model& model);
/// Patterns that match no linear of the model.
std::vector<std::string> unmatched_patterns(const Recipe& recipe, const Model& model);

}  // namespace aq
