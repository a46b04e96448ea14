#include "aq/allocate/units.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "aq/core/hash.h"
#include "aq/core/json.h"
#include "aq/core/text.h"
#include "aq/export/servability.h"
#include "aq/model/stored_names.h"

namespace aq {
namespace {

constexpr const char* kOperation = "allocate";

/// What part of its layer a linear belongs to.
std::string part_name(const Model& model, const LinearSpec& linear) {
  switch (linear.role) {
    case Role::router:
    case Role::shared_router:
      return "router";
    case Role::head:
      return "head";
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::o:
    case Role::q_a:
    case Role::q_b:
    case Role::kv_a:
    case Role::kv_b:
      return "attention";
    case Role::gate:
    case Role::up:
    case Role::down:
      break;
  }
  if (linear.expert >= 0) return "experts";
  return model.layers[linear.layer].moe ? "shared expert" : "MLP";
}

/// Units that share a linear with one set become one, at the place of the first.
void merge(std::vector<AllocationUnit>& units, const std::vector<const LinearSpec*>& alike) {
  const std::set<const LinearSpec*> wanted(alike.begin(), alike.end());
  AllocationUnit* first = nullptr;
  for (AllocationUnit& unit : units) {
    if (std::ranges::none_of(unit.linears, [&](const auto* l) { return wanted.contains(l); }))
      continue;
    if (first == nullptr) {
      first = &unit;
      continue;
    }
    first->linears.insert(first->linears.end(), unit.linears.begin(), unit.linears.end());
    unit.linears.clear();
  }
  std::erase_if(units, [](const AllocationUnit& unit) { return unit.linears.empty(); });
}

/// "layers 0 to 3 experts" of merged units.
std::string unit_name(const Model& model, const AllocationUnit& unit) {
  const auto [low, high] = std::ranges::minmax(unit.linears, {}, &LinearSpec::layer);
  std::set<std::string> parts;
  std::string text;
  for (const LinearSpec* linear : unit.linears)
    if (const std::string part = part_name(model, *linear); parts.insert(part).second)
      text += (text.empty() ? "" : " and ") + part;
  if (low->layer < 0) return text;
  if (low->layer == high->layer) return str("layer ", low->layer, " ", text);
  return str("layers ", low->layer, " to ", high->layer, " ", text);
}

/// Under what names recipes know a linear.
struct Names {
  const LinearSpec* linear = nullptr;
  std::string plain;

  bool match(const std::string& pattern) const {
    return matches_pattern(pattern, linear->name) || matches_pattern(pattern, plain);
  }
};

/// Whether the patterns match the unit's linears and no other.
bool match_exactly(const std::vector<std::string>& patterns, const AllocationUnit& unit,
                   const std::vector<Names>& model) {
  const std::set<const LinearSpec*> wanted(unit.linears.begin(), unit.linears.end());
  return std::ranges::all_of(model, [&](const Names& names) {
    const bool matched = std::ranges::any_of(
        patterns, [&](const std::string& pattern) { return names.match(pattern); });
    return matched == wanted.contains(names.linear);
  });
}

/// "model.layers.3.mlp.experts.*"
std::string common_pattern(const AllocationUnit& unit) {
  std::string common = unit.linears.front()->name;
  for (const LinearSpec* linear : unit.linears) {
    const auto differ = std::ranges::mismatch(common, linear->name);
    common.resize(differ.in1 - common.begin());
  }
  if (unit.linears.size() == 1) return common;
  return common.substr(0, common.rfind('.') + 1) + "*";
}

/// Every pattern once, in the order of the linears.
template <class Pattern>
std::vector<std::string> patterns_by(const AllocationUnit& unit, const Pattern& pattern) {
  std::vector<std::string> patterns;
  for (const LinearSpec* linear : unit.linears)
    if (std::string one = pattern(*linear); std::ranges::find(patterns, one) == patterns.end())
      patterns.push_back(std::move(one));
  return patterns;
}

}  // namespace

std::vector<AllocationUnit> allocation_units(const Model& model, const Assignments& assignments,
                                             std::string_view target) {
  std::map<std::pair<Index, std::string>, std::size_t> places;
  std::vector<AllocationUnit> units;
  for (const LinearSpec* linear : all_linears(model)) {
    if (assignments.of(*linear).method == Method::copy) continue;
    const auto [place, is_new] =
        places.try_emplace({linear->layer, part_name(model, *linear)}, units.size());
    if (is_new) units.push_back({});
    units[place->second].linears.push_back(linear);
  }
  if (!target.empty())
    for (const auto& alike : alike_linears(target, model)) merge(units, alike);
  for (AllocationUnit& unit : units) unit.name = unit_name(model, unit);
  return units;
}

std::string unit_key(const AllocationUnit& unit) {
  std::uint64_t hash = 0;
  for (const LinearSpec* linear : unit.linears) hash = xxh64(linear->name, hash);
  return str(unit.name, " ", hash_text(hash));
}

std::vector<std::vector<std::string>> unit_patterns(const std::vector<AllocationUnit>& units,
                                                    const Model& model) {
  std::vector<Names> names;
  for (const LinearSpec* linear : all_linears(model))
    names.push_back({linear, plain_name(linear->name)});
  std::vector<std::vector<std::string>> all;
  for (const AllocationUnit& unit : units) {
    std::vector<std::string> patterns{common_pattern(unit)};
    if (!match_exactly(patterns, unit, names))
      patterns = patterns_by(unit, [](const LinearSpec& linear) {
        return module_pattern(linear.name, -1, linear.expert);
      });
    if (!match_exactly(patterns, unit, names))
      patterns = patterns_by(unit, [](const LinearSpec& linear) { return linear.name; });
    all.push_back(std::move(patterns));
  }
  return all;
}

UnitFormat parse_unit_format(const std::string& text, std::string_view option) {
  const auto fail = [&](const std::string& reason) {
    throw Error(ErrorKind::usage, kOperation, str(option, " ", text), reason);
  };
  const std::size_t colon = text.find(':');
  UnitFormat format{text, text.substr(0, colon)};
  std::optional<Scheme> scheme = scheme_from_format(format.format);
  const std::vector<std::string_view>& names = format_names();
  if (!scheme && format.format != "bf16")
    fail(str("'", format.format, "' is no format", did_you_mean(format.format, names)));
  if (scheme) format.group = scheme->group_size;
  if (colon == std::string::npos) return format;
  if (!scheme) fail("bf16 leaves a linear as it is: it has no group");
  const std::string group = text.substr(colon + 1);
  Index columns = 0;
  const auto [end, problem] = std::from_chars(group.data(), group.data() + group.size(), columns);
  if (group == "channel")
    format.group = kPerChannel;
  else if (group == "tensor")
    format.group = kPerTensor;
  else if (problem == std::errc() && end == group.data() + group.size() && columns > 0)
    format.group = columns;
  else
    fail(str("'", group, "' is no group: a number of columns, 'channel' or 'tensor'"));
  scheme->group_size = *format.group;
  if (const std::string reason = scheme_problem(*scheme); !reason.empty()) fail(reason);
  return format;
}

std::string recipe_with(const Recipe& recipe, const std::vector<UnitRule>& rules,
                        const std::string& summary) {
  if (recipe.flat)
    throw Error(ErrorKind::usage, kOperation, recipe.file,
                "a flat plan names each linear: there is nothing to be spread",
                "give a recipe with 'default' and 'overrides'");
  auto json =
      parse_json<OrderedJson>(recipe.text, {ErrorKind::usage, "read the recipe", recipe.file});
  if (!summary.empty()) json["summary"] = summary;
  OrderedJson& overrides = json["overrides"];
  if (overrides.is_null()) overrides = OrderedJson::array();
  for (const UnitRule& rule : rules) {
    OrderedJson entry{{"pattern", rule.pattern}, {"wq", rule.format->format}};
    if (const std::optional<Index> group = rule.format->group) {
      if (*group == kPerTensor)
        entry["group_size"] = "tensor";
      else
        entry["group_size"] = *group;
    }
    if (!rule.comment.empty()) entry["comment"] = rule.comment;
    overrides.push_back(std::move(entry));
  }
  return json.dump(1) + "\n";
}

}  // namespace aq
