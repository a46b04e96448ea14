// Reads recipes and flat plans, and writes flat plans.

#include <algorithm>
#include <array>
#include <iterator>

#include "aq/core/text.h"
#include "recipe/recipe_parts.h"

namespace aq {
namespace {

constexpr std::array<std::string_view, 3> kTopKeys{"default", "overrides", "gptq"};
constexpr std::array<std::string_view, 10> kRuleKeys{
    "wq",    "group_size", "symmetric",     "skip",        "method",
    "extra", "aq",         "aq_group_size", "scale_dtype", "scale_rule"};
/// Carried for people and other tools, not obeyed.
constexpr std::array<std::string_view, 7> kAnnotations{
    "comment", "description", "summary", "notes", "alpha_hill", "category", "dtype"};
constexpr Index kMostColumns = Index{1} << 20;

bool is_annotation(std::string_view key) {
  return std::find(kAnnotations.begin(), kAnnotations.end(), key) != kAnnotations.end();
}

/// A positive number of columns, or a word; -1 is the first of them.
Index read_group(const Json& value, std::string_view key, std::span<const std::string_view> words,
                 const JsonPlace& place) {
  if (value.is_string()) return read_word(value, key, words, place) == 0 ? kPerChannel : kPerTensor;
  if (is_whole(value, -1, -1)) return kPerChannel;
  if (!is_whole(value, 1, kMostColumns)) {
    std::string allowed;
    for (const std::string_view word : words) allowed += str(" or \"", word, "\"");
    place.fail_key(key, str("is ", shown(value), ", not a number of columns (1 to ", kMostColumns,
                            "), -1", allowed));
  }
  return value.get<Index>();
}

std::string read_format(const Json& value, std::string_view key,
                        std::initializer_list<std::string_view> more, const JsonPlace& place) {
  std::vector<std::string_view> words = format_names();
  words.insert(words.end(), more);
  return std::string(words[read_word(value, key, words, place)]);
}

Element read_extra(const Json& value, const JsonPlace& place) {
  static constexpr std::array<std::string_view, 1> keys{"format"};
  check_keys(value, keys, {}, place);
  if (!value.contains("format")) place.fail("key 'format' is missing");
  std::vector<std::string_view> words;
  for (const Element element : kFloatElements) words.push_back(element_name(element));
  return kFloatElements[read_word(value["format"], "format", words, place)];
}

ScaleType read_scale_type(const Json& value, const JsonPlace& place) {
  static constexpr std::array<std::string_view, 5> words{"fp32", "fp16", "bf16", "e8m0", "e4m3"};
  return *scale_type_from_name(words[read_word(value, "scale_dtype", words, place)]);
}

ScaleRule read_scale_rule(const Json& value, const JsonPlace& place) {
  static constexpr std::array<std::string_view, 3> words{"ocp", "ceil", "best"};
  return *scale_rule_from_name(words[read_word(value, "scale_rule", words, place)]);
}

Method read_method(const Json& value, const JsonPlace& place) {
  static constexpr std::array<std::string_view, 2> words{"gptq", "rtn"};
  return read_word(value, "method", words, place) == 0 ? Method::gptq : Method::rtn;
}

/// The keys that every rule may have; the caller has checked that there are no others.
Rule read_rule(const Json& object, std::string pattern, const JsonPlace& place) {
  static constexpr std::array<std::string_view, 2> weight_words{"channel", "tensor"};
  static constexpr std::array<std::string_view, 1> token_words{"token"};
  Rule rule;
  rule.pattern = std::move(pattern);
  rule.path = place.path;
  for (const auto& [key, value] : object.items()) {
    if (key == "wq") rule.format = read_format(value, key, {"bf16"}, place);
    if (key == "group_size") rule.group_size = read_group(value, key, weight_words, place);
    if (key == "symmetric") rule.symmetric = read_flag(value, key, place);
    if (key == "skip") rule.skip = read_flag(value, key, place);
    if (key == "method") rule.method = read_method(value, place);
    if (key == "extra") rule.element = read_extra(value, place.at(key));
    if (key == "scale_dtype") rule.scale_type = read_scale_type(value, place);
    if (key == "scale_rule") rule.scale_rule = read_scale_rule(value, place);
    if (key == "aq") rule.activation = read_format(value, key, {"bf16", "none"}, place);
    if (key == "aq_group_size") rule.activation_group = read_group(value, key, token_words, place);
  }
  read_annotations(object, rule.annotations);
  return rule;
}

Rule read_override(const Json& object, const JsonPlace& place) {
  std::vector<std::string_view> known{"pattern"};
  known.insert(known.end(), kRuleKeys.begin(), kRuleKeys.end());
  check_rule_keys(object, known, place);
  if (!object.contains("pattern")) place.fail("key 'pattern' is missing");
  const Json& pattern = object["pattern"];
  if (!pattern.is_string() || pattern.get_ref<const std::string&>().empty())
    place.fail_key("pattern", str("is ", shown(pattern), ", not a pattern"));
  return read_rule(object, pattern.get<std::string>(), place);
}

void read_layered(const Json& json, const JsonPlace& top, Recipe& recipe) {
  check_rule_keys(json, kTopKeys, top);
  if (!json.contains("default")) top.fail("key 'default' is missing");
  check_rule_keys(json["default"], kRuleKeys, top.at("default"));
  recipe.rules.push_back(read_rule(json["default"], "*", top.at("default")));
  if (!json.contains("overrides")) return;
  const Json& overrides = json["overrides"];
  if (!overrides.is_array())
    top.fail_key("overrides", str("is ", shown(overrides), ", not a list"));
  for (std::size_t i = 0; i < overrides.size(); ++i)
    recipe.rules.push_back(read_override(overrides[i], top.at("overrides").at(std::to_string(i))));
}

/// The scheme of one module: a format's name, or an object that names one.
Rule read_module(const std::string& name, const Json& value, const JsonPlace& top) {
  if (value.is_string()) {
    Rule rule;
    rule.pattern = name;
    rule.path = top.at(name).path;
    rule.format = read_format(value, name, {"bf16"}, top);
    return rule;
  }
  if (!value.is_object())
    top.fail_key(name, str("is ", shown(value), ", neither a format nor an object"));
  const JsonPlace place = top.at(name);
  check_rule_keys(value, kRuleKeys, place);
  Rule rule = read_rule(value, name, place);
  if (!rule.format && !rule.skip.value_or(false)) place.fail("key 'wq' is missing");
  return rule;
}

void read_flat(const Json& json, const JsonPlace& top, Recipe& recipe) {
  recipe.flat = true;
  recipe.rules.emplace_back();
  for (const auto& [key, value] : json.items()) {  // sorted by name
    if (key == "gptq" || is_annotation(key)) continue;
    // A misspelt "default" must not pass for a module of that name.
    const bool dotted = key.find('.') != std::string::npos;
    if (const std::string hint = dotted ? "" : did_you_mean(key, kTopKeys); !hint.empty())
      top.fail_key(key, str("is not known", hint));
    recipe.rules.push_back(read_module(key, value, top));
  }
  if (recipe.rules.size() == 1) top.fail("key 'default' is missing");
}

/// Throws when keys of the rule contradict each other.
void check_rule(const Recipe& recipe, const Rule& rule) {
  const RuleStack alone(recipe, rule);
  if (const std::optional<Scheme> scheme = alone.weights()) alone.scale_rule(*scheme);
  alone.inputs();
}

}  // namespace

void read_annotations(const Json& object, Annotations& annotations) {
  for (const auto& [key, value] : object.items())
    if (is_annotation(key)) annotations[key] = value.dump();
}

void check_rule_keys(const Json& object, std::span<const std::string_view> known,
                     const JsonPlace& place) {
  check_keys(object, known, kAnnotations, place);
}

Recipe parse_recipe(std::string_view text, const std::string& file) {
  Recipe recipe;
  recipe.file = file;
  recipe.text = text;
  const Json json = parse_json_strictly(text, "read the recipe", file);
  const JsonPlace top = place_of(recipe, {});
  if (!json.is_object()) top.fail(str("is ", shown(json), ", not a JSON object"));
  if (json.contains("default") || json.contains("overrides"))
    read_layered(json, top, recipe);
  else
    read_flat(json, top, recipe);
  for (const Rule& rule : recipe.rules) check_rule(recipe, rule);
  read_annotations(json, recipe.annotations);
  if (json.contains("gptq")) {
    recipe.settings = read_settings(json["gptq"], top.at("gptq"));
    read_annotations(json["gptq"], recipe.settings_annotations);
  }
  return recipe;
}

namespace {

using Ordered = nlohmann::ordered_json;

Ordered group_json(Index size) {
  return size == kPerTensor ? Ordered("tensor") : Ordered(size);
}

void add_annotations(const Annotations& annotations, Ordered& json) {
  for (const auto& [key, value] : annotations) json[key] = Ordered::parse(value);
}

/// Every key that says something, so that the file means the same should defaults change.
Ordered scheme_json(const Assignment& assignment) {
  Ordered json;
  if (assignment.method == Method::copy) {
    json["wq"] = "bf16";
    return json;
  }
  const Scheme& scheme = assignment.scheme;
  json["wq"] = format_name(scheme);
  json["group_size"] = group_json(scheme.group_size);
  json["method"] = method_name(assignment.method);
  json["scale_dtype"] = scale_type_name(scheme.scale_type);
  if (!scheme.is_float()) json["symmetric"] = scheme.symmetric;
  if (scheme.is_mx()) json["scale_rule"] = scale_rule_name(assignment.scale_rule);
  if (assignment.activation) {
    json["aq"] = format_name(*assignment.activation);
    json["aq_group_size"] = assignment.activation->group_size;
  }
  return json;
}

}  // namespace

std::string flat_plan(const Recipe& recipe, const Model& model) {
  Ordered settings = Ordered::parse(settings_to_json(recipe.settings));
  add_annotations(recipe.settings_annotations, settings);
  std::string text = "{\n";
  for (const auto& [key, value] : recipe.annotations) text += str("\"", key, "\": ", value, ",\n");
  text += str("\"gptq\": ", settings.dump());
  for (const LinearSpec* linear : all_linears(model)) {
    Ordered scheme = scheme_json(resolve(recipe, *linear));
    add_annotations(RuleStack(recipe, *linear).annotations(), scheme);
    if (scheme.size() == 1) scheme = scheme["wq"];  // untouched
    text += str(",\n", Ordered(linear->name).dump(), ": ", scheme.dump());
  }
  return text + "\n}\n";
}

}  // namespace aq
