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
Index read_group(const JsonValue& value, std::span<const std::string_view> words) {
  if (value.json.is_string()) return value.word(words) == 0 ? kPerChannel : kPerTensor;
  if (is_whole(value.json, -1, -1)) return kPerChannel;
  if (!is_whole(value.json, 1, kMostColumns)) {
    std::string allowed;
    for (const std::string_view word : words) allowed += str(" or \"", word, "\"");
    value.fail_as(str("a number of columns (1 to ", kMostColumns, "), -1", allowed));
  }
  return value.json.get<Index>();
}

std::string read_format(const JsonValue& value, std::initializer_list<std::string_view> more) {
  std::vector<std::string_view> words = format_names();
  words.insert(words.end(), more);
  return std::string(words[value.word(words)]);
}

Element read_extra(const JsonValue& value) {
  static constexpr std::array<std::string_view, 1> keys{"format"};
  value.check_keys(keys);
  std::vector<std::string_view> words;
  for (const Element element : kFloatElements) words.push_back(element_name(element));
  return kFloatElements[value.at("format").word(words)];
}

ScaleType read_scale_type(const JsonValue& value) {
  static constexpr std::array<std::string_view, 5> words{"fp32", "fp16", "bf16", "e8m0", "e4m3"};
  return *scale_type_from_name(words[value.word(words)]);
}

ScaleRule read_scale_rule(const JsonValue& value) {
  static constexpr std::array<std::string_view, 3> words{"ocp", "ceil", "best"};
  return *scale_rule_from_name(words[value.word(words)]);
}

Method read_method(const JsonValue& value) {
  static constexpr std::array<std::string_view, 2> words{"gptq", "rtn"};
  return value.word(words) == 0 ? Method::gptq : Method::rtn;
}

/// The keys that every rule may have; the caller has checked that there are no others.
Rule read_rule(const JsonValue& object, std::string pattern) {
  static constexpr std::array<std::string_view, 2> weight_words{"channel", "tensor"};
  static constexpr std::array<std::string_view, 1> token_words{"token"};
  Rule rule;
  rule.pattern = std::move(pattern);
  rule.path = object.place.path;
  if (const auto value = object.find("wq")) rule.format = read_format(*value, {"bf16"});
  if (const auto value = object.find("group_size"))
    rule.group_size = read_group(*value, weight_words);
  if (const auto value = object.find("symmetric")) rule.symmetric = value->flag();
  if (const auto value = object.find("skip")) rule.skip = value->flag();
  if (const auto value = object.find("method")) rule.method = read_method(*value);
  if (const auto value = object.find("extra")) rule.element = read_extra(*value);
  if (const auto value = object.find("scale_dtype")) rule.scale_type = read_scale_type(*value);
  if (const auto value = object.find("scale_rule")) rule.scale_rule = read_scale_rule(*value);
  if (const auto value = object.find("aq")) rule.activation = read_format(*value, {"bf16", "none"});
  if (const auto value = object.find("aq_group_size"))
    rule.activation_group = read_group(*value, token_words);
  read_annotations(object.json, rule.annotations);
  return rule;
}

Rule read_override(const JsonValue& object) {
  std::vector<std::string_view> known{"pattern"};
  known.insert(known.end(), kRuleKeys.begin(), kRuleKeys.end());
  check_rule_keys(object, known);
  const JsonValue pattern = object.at("pattern");
  if (!pattern.json.is_string() || pattern.text().empty()) pattern.fail_as("a pattern");
  return read_rule(object, pattern.text());
}

void read_layered(const JsonValue& top, Recipe& recipe) {
  check_rule_keys(top, kTopKeys);
  const JsonValue whole = top.at("default");
  check_rule_keys(whole, kRuleKeys);
  recipe.rules.push_back(read_rule(whole, "*"));
  const auto overrides = top.find("overrides");
  if (!overrides) return;
  if (!overrides->json.is_array()) overrides->fail_as("a list");
  for (std::size_t i = 0; i < overrides->json.size(); ++i)
    recipe.rules.push_back(read_override(overrides->item(i)));
}

/// The scheme of one module: a format's name, or an object that names one.
Rule read_module(const std::string& name, const JsonValue& value) {
  if (value.json.is_string()) {
    Rule rule;
    rule.pattern = name;
    rule.path = value.place.path;
    rule.format = read_format(value, {"bf16"});
    return rule;
  }
  if (!value.json.is_object())
    value.fail(str("is ", shown(value.json), ", neither a format nor an object"));
  check_rule_keys(value, kRuleKeys);
  Rule rule = read_rule(value, name);
  if (!rule.skip.value_or(false)) value.at("wq");
  return rule;
}

void read_flat(const JsonValue& top, Recipe& recipe) {
  recipe.flat = true;
  recipe.rules.emplace_back();
  for (const auto& [key, value] : top.json.items()) {  // sorted by name
    if (key == "gptq" || is_annotation(key)) continue;
    // A misspelt "default" must not pass for a module of that name.
    const bool dotted = key.find('.') != std::string::npos;
    const JsonValue module{value, top.place.at(key)};
    if (const std::string hint = dotted ? "" : did_you_mean(key, kTopKeys); !hint.empty())
      module.fail("is not known" + hint);
    recipe.rules.push_back(read_module(key, module));
  }
  if (recipe.rules.size() == 1) top.at("default");
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

void check_rule_keys(const JsonValue& object, std::span<const std::string_view> known) {
  object.check_keys(known, kAnnotations);
}

Recipe parse_recipe(std::string_view text, const std::string& file) {
  Recipe recipe;
  recipe.file = file;
  recipe.text = text;
  const JsonPlace place = place_of(recipe, {});
  const Json json = parse_json(text, place);
  const JsonValue top{json, place};
  if (top.has("default") || top.has("overrides"))
    read_layered(top, recipe);
  else
    read_flat(top, recipe);
  for (const Rule& rule : recipe.rules) check_rule(recipe, rule);
  read_annotations(json, recipe.annotations);
  if (const auto settings = top.find("gptq")) {
    recipe.settings = read_settings(*settings);
    read_annotations(settings->json, recipe.settings_annotations);
  }
  return recipe;
}

namespace {

OrderedJson group_json(Index size) {
  return size == kPerTensor ? OrderedJson("tensor") : OrderedJson(size);
}

void add_annotations(const Annotations& annotations, OrderedJson& json) {
  for (const auto& [key, value] : annotations) json[key] = OrderedJson::parse(value);
}

/// Every key that says something, so that the file means the same should defaults change.
OrderedJson scheme_json(const Assignment& assignment) {
  OrderedJson json;
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

std::string flat_plan(const Recipe& recipe, const Assignments& assignments, const Model& model) {
  OrderedJson settings = OrderedJson::parse(settings_to_json(recipe.settings));
  add_annotations(recipe.settings_annotations, settings);
  std::string text = "{\n";
  for (const auto& [key, value] : recipe.annotations) text += str("\"", key, "\": ", value, ",\n");
  text += str("\"gptq\": ", settings.dump());
  for (const LinearSpec* linear : all_linears(model)) {
    OrderedJson scheme = scheme_json(assignments.of(*linear));
    add_annotations(RuleStack(recipe, *linear).annotations(), scheme);
    if (scheme.size() == 1) scheme = scheme["wq"];  // untouched
    text += str(",\n", OrderedJson(linear->name).dump(), ": ", scheme.dump());
  }
  return text + "\n}\n";
}

}  // namespace aq
