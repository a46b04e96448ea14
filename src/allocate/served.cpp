#include "aq/allocate/served.h"

#include <algorithm>
#include <optional>
#include <set>

namespace aq {
namespace {

/// What is asked, of all functions here.
struct Question {
  const ServedBy& server;
  const Model& model;
  const std::vector<AllocationUnit>& units;
  const std::vector<UnitFormat>& formats;
  const std::vector<Assignments>& whole;

  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(ErrorKind::usage, "allocate", "--target " + server.target, reason);
  }
};

std::vector<bool> units_served(const Question& question, const Verdict& verdict) {
  std::set<std::string> refused;
  for (const Objection& objection : verdict.objections)
    if (objection.gravity == Gravity::refused)
      refused.insert(objection.matrices.begin(), objection.matrices.end());
  std::vector<bool> served;
  for (const AllocationUnit& unit : question.units)
    served.push_back(std::ranges::none_of(
        unit.linears, [&](const LinearSpec* linear) { return refused.contains(linear->name); }));
  return served;
}

/// Units in `first` and `second` in turns, as far as they may have them; else in any that they may.
Assignments in_turns(const Question& question, const std::vector<std::vector<bool>>& served,
                     std::size_t first, std::size_t second) {
  Assignments mixed = question.whole[first];
  for (std::size_t unit = 0; unit < question.units.size(); ++unit) {
    std::size_t format = unit % 2 == 0 ? first : second;
    if (!served[format][unit]) format = first + second - format;
    for (std::size_t other = 0; !served[format][unit]; ++other) format = other;
    for (const LinearSpec* linear : question.units[unit].linears)
      mixed.linears[linear->id] = question.whole[format].of(*linear);
  }
  return mixed;
}

void check_together(const Question& question, const std::vector<std::vector<bool>>& served) {
  const std::size_t count = question.formats.size();
  for (std::size_t first = 0; first < count; ++first)
    for (std::size_t second = 0; second < count; ++second) {
      const Verdict verdict =
          judge(question.server.target, question.model, in_turns(question, served, first, second),
                question.server.plan);
      if (!verdict.served())
        question.fail(str("it does not take ", question.formats[first].text, " beside ",
                          question.formats[second].text, ": ", verdict_text(verdict)));
    }
}

}  // namespace

std::vector<std::vector<bool>> served_formats(const ServedBy& server, const Model& model,
                                              const std::vector<AllocationUnit>& units,
                                              const std::vector<UnitFormat>& formats,
                                              const std::vector<Assignments>& whole) {
  std::vector<std::vector<bool>> served(formats.size(), std::vector<bool>(units.size(), true));
  if (server.target.empty()) return served;
  const Question question{server, model, units, formats, whole};
  std::string verdicts;
  for (std::size_t format = 0; format < formats.size(); ++format) {
    const Verdict verdict = judge(server.target, model, whole[format], server.plan);
    served[format] = units_served(question, verdict);
    verdicts += str("\n", formats[format].text, ": ", verdict_text(verdict));
  }
  for (std::size_t unit = 0; unit < units.size(); ++unit)
    if (std::ranges::none_of(served, [&](const auto& of_format) { return of_format[unit]; }))
      question.fail(str("it takes none of the formats for ", units[unit].name, verdicts));
  check_together(question, served);
  return served;
}

}  // namespace aq
