#include "aq/export/servability.h"

#include <algorithm>

#include "aq/comm/common_error.h"
#include "aq/core/text.h"
#include "export/serving_rules.h"

namespace aq {

std::string_view gravity_name(Gravity gravity) {
  switch (gravity) {
    case Gravity::refused:
      return "refused";
    case Gravity::note:
      return "note";
    case Gravity::hint:
      return "hint";
  }
  return "";
}

bool Verdict::has(Gravity gravity) const {
  return std::ranges::find(objections, gravity, &Objection::gravity) != objections.end();
}

Verdict judge(std::string_view target, const Model& model, const Assignments& assignments,
              const ServingPlan& plan) {
  const ServingTarget& row = serving_target(target);
  Verdict verdict{row.name, format_for(row, model, assignments), {}};
  for (const BrokenRule& broken : broken_rules(row, model, assignments, plan)) {
    const ServingRule& rule = *broken.rule;
    Objection& objection =
        verdict.objections.emplace_back(Objection{rule.text, rule.source, rule.gravity, {}});
    for (const LinearSpec* linear : broken.linears) objection.matrices.push_back(linear->name);
  }
  return verdict;
}

namespace {

/// The format where it is not the target's usual one.
std::string format_text(const Verdict& verdict) {
  if (verdict.format == serving_target(verdict.target).format) return {};
  return str(" with --format ", verdict.format);
}

}  // namespace

std::string verdict_text(const Verdict& verdict) {
  std::string text = verdict.served() ? "yes" + format_text(verdict) : "no";
  for (const Objection& objection : verdict.objections) {
    const bool refused = objection.gravity == Gravity::refused;
    const std::size_t more = objection.matrices.size() - 1;
    text += str("\n", refused ? "rule: " : "note: ", objection.rule, refused ? "; not so: " : ": ",
                objection.matrices.front(), more > 0 ? str(" and ", more, " more") : "", " [",
                objection.source, "]");
  }
  return text;
}

std::string servers_line(const Model& model, const Assignments& assignments,
                         const ServingPlan& plan) {
  std::string text;
  if (std::ranges::all_of(assignments.linears, [](const Assignment& assignment) {
        return assignment.method == Method::copy;
      }))
    return text;
  for (const std::string_view target : serving_targets()) {
    const Verdict verdict = judge(target, model, assignments, plan);
    const bool notes = verdict.served() && verdict.has(Gravity::note);
    text +=
        str(text.empty() ? "" : ", ", target,
            verdict.served() ? " yes" + format_text(verdict) : " no", notes ? " (with notes)" : "");
  }
  return text;
}

namespace {

void require(std::string_view target, const ServingOptions& options, const Model& model,
             const Assignments& assignments) {
  Verdict verdict = judge(target, model, assignments, options.plan);
  if (verdict.served()) return;
  std::erase_if(verdict.objections,
                [](const Objection& objection) { return objection.gravity != Gravity::refused; });
  const Snapped nearest = snap(target, model, assignments, options.plan);
  throw CommonError(
      ErrorKind::usage, "judge the recipe", target, replace_all(verdict_text(verdict), "\n", "; "),
      nearest.served ? str("--snap ", target, " takes the nearest recipe that it serves, at ",
                           replace_all(snap_text(nearest), "\n", "; "))
                     : "no recipe helps; docs/serving.md says what servers load");
}

}  // namespace

Fitted fit_for_servers(const ServingOptions& options, const Model& model, Assignments assignments) {
  Fitted fitted{std::move(assignments), {}};
  if (!options.snap_to.empty()) {
    Snapped snapped = snap(options.snap_to, model, fitted.assignments, options.plan);
    if (!snapped.changes.empty())
      fitted.snapped = str("to ", options.snap_to, ": ", snap_text(snapped));
    fitted.assignments = std::move(snapped.assignments);
  }
  for (const std::string& target : {options.snap_to, options.required_by})
    if (!target.empty()) require(target, options, model, fitted.assignments);
  return fitted;
}

}  // namespace aq
