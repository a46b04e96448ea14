#include "aq/recipe/recipe.h"

#include <algorithm>
#include <map>
#include <set>

#include "aq/core/text.h"
#include "aq/model/stored_names.h"
#include "recipe/pattern_hint.h"
#include "recipe/recipe_parts.h"

namespace aq {
namespace {

/// What the default does not touch: small, and wrong choices of experts or tokens cost more than
/// their bits.
bool stays_unless_named(Role role) {
  switch (role) {
    case Role::router:
    case Role::shared_router:
    case Role::head:
      return true;
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::o:
    case Role::q_a:
    case Role::q_b:
    case Role::kv_a:
    case Role::kv_b:
    case Role::gate:
    case Role::up:
    case Role::down:
      return false;
  }
  return false;
}

bool has_own_scales(const Scheme& scheme) {
  return scheme.is_mx() || scheme.is_nvfp4();
}

/// The rule of a flat recipe for this name, or nothing.
const Rule* find_name(const Recipe& recipe, std::string_view name) {
  const auto rule = std::lower_bound(
      recipe.rules.begin() + 1, recipe.rules.end(), name,
      [](const Rule& one, std::string_view wanted) { return one.pattern < wanted; });
  return rule != recipe.rules.end() && rule->pattern == name ? &*rule : nullptr;
}

/// Recipes are written for the names of plain checkpoints as well as for those of the files.
bool matches_either(const std::string& pattern, const std::string& name, const std::string& plain) {
  return matches_pattern(pattern, name) || (plain != name && matches_pattern(pattern, plain));
}

}  // namespace

JsonPlace place_of(const Recipe& recipe, const Rule& rule) {
  return {ErrorKind::usage, "read the recipe", recipe.file, {}, rule.path};
}

RuleStack::RuleStack(const Recipe& recipe, const LinearSpec& linear)
    : recipe_(recipe), linear_(linear.name) {
  if (recipe.flat) {
    const Rule* rule = find_name(recipe, linear.name);
    if (rule == nullptr) rule = find_name(recipe, plain_name(linear.name));
    if (rule != nullptr) rules_.push_back(rule);
    return;
  }
  const std::string plain = plain_name(linear.name);
  for (const Rule& rule : recipe.rules)
    if (matches_either(rule.pattern, linear.name, plain)) rules_.push_back(&rule);
}

template <class Value>
const Rule* RuleStack::last(std::optional<Value> Rule::*key, const Rule* since) const {
  const Rule* found = nullptr;
  for (const Rule* rule : rules_)
    if (rule->*key && (since == nullptr || rule >= since)) found = rule;
  return found;
}

template <class Value>
const Rule* RuleStack::change(std::optional<Value> Rule::*key) const {
  const Rule* found = nullptr;
  for (const Rule* rule : rules_)
    if (rule->*key && (found == nullptr || rule->*key != found->*key)) found = rule;
  return found;
}

void RuleStack::fail(const Rule& rule, std::string_view key, const std::string& reason) const {
  const std::string where = linear_.empty() ? "" : str("; so for '", linear_, "'");
  place_of(recipe_, rule).at(key).fail(reason + where);
}

std::optional<Scheme> RuleStack::weights() const {
  const Rule* named = change(&Rule::format);
  if (named == nullptr) return std::nullopt;
  std::optional<Scheme> scheme = scheme_from_format(*named->format);  // "bf16" has none
  if (!scheme) return std::nullopt;
  const std::string format = *named->format;
  if (const Rule* rule = last(&Rule::element, named)) {
    scheme = with_element(*scheme, *rule->element);
    if (!scheme)
      fail(*rule, "extra",
           str("asks for ", element_name(*rule->element), ", which is no element of ", format));
  }
  if (const Rule* rule = last(&Rule::symmetric)) {
    if (!scheme->is_float())
      scheme->symmetric = *rule->symmetric;
    else if (!*rule->symmetric && rule >= named)
      fail(*rule, "symmetric", str("is false, but ", format, " has no zeros"));
  }
  if (const Rule* rule = last(&Rule::scale_type)) {
    const bool fits = has_own_scales(*scheme) ? *rule->scale_type == scheme->scale_type
                                              : scale_type_bits(*rule->scale_type) >= 16;
    if (!fits && rule >= named)
      fail(*rule, "scale_dtype",
           str("is ", scale_type_name(*rule->scale_type), ", which ", format, " cannot have"));
    if (fits) scheme->scale_type = *rule->scale_type;
  }
  if (const Rule* rule = last(&Rule::group_size, named)) {
    scheme->group_size = *rule->group_size;
    if (const std::string problem = scheme_problem(*scheme); !problem.empty())
      fail(*rule, "group_size", str("does not fit: ", problem));
  }
  return scheme;
}

ScaleRule RuleStack::scale_rule(const Scheme& scheme) const {
  const Rule* rule = last(&Rule::scale_rule);
  if (rule == nullptr) return ScaleRule::best;
  if (scheme.is_mx()) return *rule->scale_rule;
  if (rule >= change(&Rule::format))
    fail(*rule, "scale_rule", str("is only of MX formats, and not of ", format_name(scheme)));
  return ScaleRule::best;
}

std::optional<Scheme> RuleStack::inputs() const {
  const Rule* named = change(&Rule::activation);
  if (named == nullptr) return std::nullopt;
  std::optional<Scheme> scheme = scheme_from_format(*named->activation);
  if (!scheme) return std::nullopt;
  if (!has_own_scales(*scheme)) scheme->scale_type = ScaleType::f32;  // found on the fly
  if (const Rule* rule = last(&Rule::activation_group, named)) {
    scheme->group_size = *rule->activation_group;
    if (const std::string problem = scheme_problem(*scheme); !problem.empty())
      fail(*rule, "aq_group_size", str("does not fit: ", problem));
  }
  return scheme;
}

bool RuleStack::skipped() const {
  const Rule* rule = last(&Rule::skip);
  return rule != nullptr && *rule->skip;
}

Method RuleStack::method() const {
  const Rule* rule = last(&Rule::method);
  return rule == nullptr ? Method::gptq : *rule->method;
}

bool RuleStack::named() const {
  const Rule* rule = last(&Rule::format);
  return rule != nullptr && rule != &recipe_.rules.front();
}

Annotations RuleStack::annotations() const {
  Annotations all;
  for (const Rule* rule : rules_)
    for (const auto& [key, value] : rule->annotations) all.insert_or_assign(key, value);
  return all;
}

Assignment resolve(const Recipe& recipe, const LinearSpec& linear) {
  const RuleStack rules(recipe, linear);
  Assignment result;
  if (rules.skipped() || (stays_unless_named(linear.role) && !rules.named())) return result;
  const std::optional<Scheme> scheme = rules.weights();
  if (!scheme) return result;
  result.method = rules.method();
  result.scheme = *scheme;
  result.scale_rule = rules.scale_rule(*scheme);
  result.activation = rules.inputs();
  return result;
}

Assignments assign(const Recipe& recipe, const Model& model) {
  Assignments all{recipe.settings, {}};
  for (const LinearSpec* linear : all_linears(model)) {
    AQ_CHECK(linear->id == std::ssize(all.linears), linear->name, " is not numbered");
    all.linears.push_back(resolve(recipe, *linear));
  }
  return all;
}

std::string to_string(const Assignment& assignment) {
  if (assignment.method == Method::copy) return "untouched";
  const Scheme& scheme = assignment.scheme;
  std::string text = str(method_name(assignment.method), " ", to_string(scheme), ", scales ",
                         scale_type_name(scheme.scale_type));
  if (scheme.is_mx()) text += str(" (", scale_rule_name(assignment.scale_rule), ")");
  if (assignment.activation) text += str(", inputs ", to_string(*assignment.activation));
  return text;
}

const Assignment& Assignments::of(const LinearSpec& linear) const {
  AQ_CHECK(linear.id >= 0 && linear.id < std::ssize(linears), linear.name);
  return linears[linear.id];
}

std::vector<std::string> group_remarks(const Assignments& assignments, const Model& model) {
  std::map<std::pair<Index, Index>, Index> counts;  // (columns, group size) -> matrices
  for (const LinearSpec* linear : all_linears(model)) {
    const Assignment& assignment = assignments.of(*linear);
    const Index size = assignment.scheme.group_size;
    if (assignment.method != Method::copy && size > 0 && linear->columns % size != 0)
      ++counts[{linear->columns, size}];
  }
  std::vector<std::string> remarks;
  for (const auto& [shape, matrices] : counts) {
    const auto [columns, size] = shape;
    const std::string rows = str(matrices, " matrices with rows of ", columns, ": ");
    remarks.push_back(columns < size
                          ? str(rows, "one group, not ", size, " columns")
                          : str(rows, "groups of ", size, ", the last of ", columns % size));
  }
  return remarks;
}

namespace {

std::vector<std::string> unknown_modules(const Recipe& recipe, const Model& model) {
  std::set<std::string> names;
  for (const LinearSpec* linear : all_linears(model)) {
    names.insert(linear->name);
    names.insert(plain_name(linear->name));
  }
  const Rule* first = nullptr;
  Index count = 0;
  for (auto rule = recipe.rules.begin() + 1; rule != recipe.rules.end(); ++rule) {
    if (names.contains(rule->pattern)) continue;
    if (count++ == 0) first = &*rule;
  }
  if (first == nullptr) return {};
  const std::vector<std::string_view> known(names.begin(), names.end());
  const bool is_pattern = first->pattern.find_first_of("*?[\\^$(|:") != std::string::npos;
  return {str(count, " of ", recipe.rules.size() - 1, " names are no linear of the model, first '",
              first->pattern, "'",
              is_pattern ? "; a flat plan takes whole names: patterns stand in 'overrides'"
                         : did_you_mean(first->pattern, known))};
}

}  // namespace

std::vector<std::string> unmatched_patterns(const Recipe& recipe, const Model& model) {
  if (recipe.flat) return unknown_modules(recipe, model);
  const std::vector<const LinearSpec*> linears = all_linears(model);
  std::vector<std::string> remarks;
  for (std::size_t i = 1; i < recipe.rules.size(); ++i) {
    const Rule& rule = recipe.rules[i];
    const bool used = std::any_of(linears.begin(), linears.end(), [&](const LinearSpec* linear) {
      return matches_either(rule.pattern, linear->name, plain_name(linear->name));
    });
    if (!used)
      remarks.push_back(str(rule.path, ": pattern '", rule.pattern,
                            "' matches no linear of the model", regex_hint(rule.pattern, linears)));
  }
  return remarks;
}

}  // namespace aq
