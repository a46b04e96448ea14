// The nearest recipe that a server loads.

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

#include "aq/core/text.h"
#include "aq/model/stored_names.h"
#include "export/serving_rules.h"

namespace aq {
namespace {

constexpr double kUntouchedBits = 16;

/// What a server is shown of an assignment.
struct Choice {
  bool quantized = false;
  Scheme scheme = {};
  std::optional<Scheme> activation = std::nullopt;
  bool operator==(const Choice&) const = default;
};

/// Bits a weight of a long row.
double bits(const Choice& choice) {
  constexpr Index kColumns = 1 << 20;
  if (!choice.quantized) return kUntouchedBits;
  return static_cast<double>(stored_bits(choice.scheme, 1, kColumns)) / kColumns;
}

Choice choice_of(const Assignment& assignment) {
  if (assignment.method == Method::copy) return {};
  return {true, assignment.scheme, assignment.activation};
}

std::string text_of(const Assignment& assignment) {
  if (assignment.method == Method::copy) return "untouched";
  return to_string(assignment.scheme) +
         (assignment.activation ? ", inputs " + to_string(*assignment.activation) : "");
}

/// Columns of a group, the whole row being the most.
Index columns_of_group(const Scheme& scheme) {
  return scheme.group_size > 0 ? scheme.group_size : std::numeric_limits<Index>::max();
}

/// Schemes of other groups, no wider than `most`.
void add_groups(Choice choice, Index most, std::vector<Choice>& steps) {
  for (const Index group : {Index{128}, Index{64}, Index{32}, Index{16}}) {
    choice.scheme.group_size = group;
    if (group <= most && scheme_problem(choice.scheme).empty()) steps.push_back(choice);
  }
}

/// From what was asked for up to untouched, by bits a weight. A group may be as wide as it was with
/// codes of the same width, and up to 128 columns with wider ones.
std::vector<Choice> ladder(const Choice& asked) {
  std::vector<Choice> steps;
  const Scheme& scheme = asked.scheme;
  if (asked.quantized) {
    add_groups(asked, columns_of_group(scheme), steps);
    for (const int width : {scheme.bits, 4, 8}) {
      if (width < scheme.bits) continue;
      Choice integer{true, *scheme_from_format(str("int", width)), std::nullopt};
      if (!scheme.is_float()) integer.scheme.scale_type = scheme.scale_type;
      integer.scheme.group_size = scheme.group_size;
      if (width == scheme.bits) steps.push_back(integer);
      add_groups(integer, width == scheme.bits ? columns_of_group(scheme) : 128, steps);
    }
  }
  std::ranges::stable_sort(steps, {}, bits);
  steps.insert(steps.begin(), asked);
  if (asked.quantized) steps.push_back({});
  return steps;
}

/// Linears that change together.
struct Unit {
  Linears linears;
  std::vector<Choice> steps;
  std::size_t next = 0;
};

Unit make_unit(Linears linears, const Assignments& assignments) {
  const auto width = [&](const LinearSpec* linear) {
    const Choice choice = choice_of(assignments.of(*linear));
    return std::tuple(choice.quantized ? choice.scheme.bits : 16, bits(choice), !choice.activation);
  };
  const LinearSpec* widest = *std::ranges::max_element(linears, {}, width);
  return {std::move(linears), ladder(choice_of(assignments.of(*widest)))};
}

std::vector<Unit> units_of(const ServingTarget& target, const Model& model,
                           const Assignments& assignments) {
  std::vector<Unit> units;
  std::set<Index> taken;
  for (Linears& set : target.alike(model)) {
    for (const LinearSpec* linear : set) taken.insert(linear->id);
    units.push_back(make_unit(std::move(set), assignments));
  }
  for (const LinearSpec* linear : all_linears(model))
    if (!taken.contains(linear->id)) units.push_back(make_unit({linear}, assignments));
  return units;
}

/// The next step; false at the last one.
bool climb(Unit& unit, Assignments& assignments) {
  if (unit.next == unit.steps.size()) return false;
  const Choice& choice = unit.steps[unit.next++];
  for (const LinearSpec* linear : unit.linears) {
    Assignment& assignment = assignments.linears[linear->id];
    if (!choice.quantized) {
      assignment = {};
    } else {
      assignment.scheme = choice.scheme;
      assignment.activation = choice.activation;
    }
  }
  return true;
}

/// The linears of refused units.
std::set<Index> refused(const ServingTarget& target, const Model& model,
                        const Assignments& assignments, const ServingPlan& plan) {
  std::set<Index> ids;
  for (const BrokenRule& broken : broken_rules(target, model, assignments, plan))
    if (broken.rule->gravity == Gravity::refused)
      for (const LinearSpec* linear : broken.linears) ids.insert(linear->id);
  return ids;
}

void add_change(const LinearSpec& linear, const Assignments& before, Snapped& snapped) {
  const Assignment &was = before.of(linear), &is = snapped.assignments.of(linear);
  if (was == is) return;
  const SnapChange change{module_pattern(linear), text_of(was), text_of(is), 1};
  const auto same = std::ranges::find_if(snapped.changes, [&](const SnapChange& other) {
    return std::tie(other.modules, other.before, other.after) ==
           std::tie(change.modules, change.before, change.after);
  });
  if (same == snapped.changes.end())
    snapped.changes.push_back(change);
  else
    ++same->matrices;
}

void add_facts(const Model& model, const Assignments& before, Snapped& snapped) {
  double weights = 0, bits_before = 0, bits_after = 0;
  for (const LinearSpec* linear : all_linears(model)) {
    add_change(*linear, before, snapped);
    const Assignment &was = before.of(*linear), &is = snapped.assignments.of(*linear);
    if (was.method == Method::copy) continue;
    const auto size = static_cast<double>(linear->rows * linear->columns);
    const auto stored = [&](const Assignment& assignment) {
      if (assignment.method == Method::copy) return kUntouchedBits * size;
      return static_cast<double>(stored_bits(assignment.scheme, linear->rows, linear->columns));
    };
    weights += size;
    bits_before += stored(was);
    bits_after += stored(is);
  }
  if (weights == 0) return;
  snapped.bits_before = bits_before / weights;
  snapped.bits_after = bits_after / weights;
}

}  // namespace

Snapped snap(std::string_view target_name, const Model& model, const Assignments& assignments,
             const ServingPlan& plan) {
  const ServingTarget& target = serving_target(target_name);
  Snapped snapped{assignments, {}, 0, 0, false};
  std::set<Index> bad = refused(target, model, assignments, plan);
  std::vector<Unit> units;
  if (!bad.empty()) units = units_of(target, model, assignments);
  for (bool changed = true; changed && !bad.empty();) {
    changed = false;
    for (Unit& unit : units)
      if (std::ranges::any_of(unit.linears,
                              [&](const LinearSpec* linear) { return bad.contains(linear->id); }))
        changed |= climb(unit, snapped.assignments);
    bad = refused(target, model, snapped.assignments, plan);
  }
  snapped.served = bad.empty();
  add_facts(model, assignments, snapped);
  return snapped;
}

std::string snap_text(const Snapped& snapped) {
  std::string text =
      str(fixed(snapped.bits_after, 3), " bits a weight, not ", fixed(snapped.bits_before, 3));
  for (const SnapChange& change : snapped.changes)
    text += str("\n", change.modules, ": ", change.before, " -> ", change.after, " (",
                change.matrices, ")");
  return text;
}

}  // namespace aq
