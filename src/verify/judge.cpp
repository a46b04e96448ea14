#include "verify/judge.h"

#include <cmath>

#include "aq/core/parallel.h"

namespace aq {
namespace {

/// Sums over weights w and what is stored for them, q.
struct Sums {
  double ww = 0, qq = 0, difference = 0;  ///< of w², q², (w - q)²
  double rescaled = 0;  ///< of (w - q)² with the scale of each group that is best for its codes
  Index misfits = 0;    ///< groups that another scale would bring much nearer to their weights

  void add(const Sums& other) {
    ww += other.ww;
    qq += other.qq;
    difference += other.difference;
    rescaled += other.rescaled;
    misfits += other.misfits;
  }
  /// ‖W-Q‖² / ‖W‖², 0 where W is 0, as it is logged
  double error() const { return ww > 0 ? difference / ww : 0; }
};

Sums group_sums(const MatrixForm& form, const Matrix& source, Index r, Index g) {
  Sums sums;
  double wq = 0;
  for (Index c = g * form.group; c < std::min(form.columns, (g + 1) * form.group); ++c) {
    const double w = source(r, c), q = form.value(r, c);
    sums.ww += w * w;
    sums.qq += q * q;
    wq += w * q;
    sums.difference += (w - q) * (w - q);
  }
  sums.rescaled = sums.qq > 0 ? sums.ww - wq * wq / sums.qq : sums.ww;
  sums.misfits = sums.difference > 2 * sums.rescaled + 0.02 * sums.ww ? 1 : 0;
  return sums;
}

Sums sums_of(const MatrixForm& form, const Matrix& source) {
  constexpr Index kWeightsAtOnce = Index{1} << 18;  // worth a thread
  const Index step = std::max(Index{1}, kWeightsAtOnce / std::max(Index{1}, form.columns));
  std::vector<Sums> rows(form.rows);
  parallel_for(ceil_div(form.rows, step), [&](Index i) {
    for (Index r = i * step; r < std::min(form.rows, (i + 1) * step); ++r)
      for (Index g = 0; g < form.groups(); ++g) rows[r].add(group_sums(form, source, r, g));
  });
  Sums all;
  for (const Sums& row : rows) all.add(row);
  return all;
}

/// Whether the error is the logged one: |‖W-Q'‖ - ‖W-Q‖| <= ‖Q-Q'‖.
bool is_logged(const Sums& sums, const Known& known) {
  constexpr double kSummation = 1e-9;  // another order of additions
  const double error = sums.error(), logged = *known.logged;
  if (std::abs(error - logged) <= kSummation * std::max(logged, error)) return true;
  const double further = sums.ww > 0 ? known.rounding * std::sqrt(sums.qq / sums.ww) : 0;
  return std::abs(std::sqrt(error) - std::sqrt(logged)) <= further;
}

std::string changed_text(const Known& known) {
  return known.changed.empty() ? "" : str("; ", known.changed, " differ from what was saved");
}

}  // namespace

Problem judge_alone(const Known& known) {
  if (known.problem) return {known.problem.kind, known.problem.text + changed_text(known)};
  if (known.changed.empty()) return {};
  return {"checksum", str(known.changed, " differ from what was saved (checksum)")};
}

Problem judge(const MatrixForm& form, const Matrix& source, const Known& known) {
  constexpr double kUnlike = 0.6;  // of other weights nearly 1, of int2 about 0.1
  if (known.problem) return judge_alone(known);
  const std::string changed = changed_text(known);
  const Sums sums = sums_of(form, source);
  const bool as_logged = !known.logged || is_logged(sums, known);
  std::string error = str("relative squared error against the source ", sums.error());
  if (known.logged) error += str(", logged ", *known.logged);
  if (sums.qq == 0 && sums.ww > 0)
    return {"zero", "all of its values are 0, those of its source are not" + changed};
  if (sums.ww == 0 && sums.qq > 0)
    return {"foreign", "all values of its source are 0, its own are not" + changed};
  const bool doubtful = !known.logged || !as_logged || !known.changed.empty();
  if (doubtful && sums.rescaled > kUnlike * sums.ww)
    return {"foreign", str("its values are not made from its source (", error, ")", changed)};
  if (!as_logged && sums.misfits > 0)
    return {"scale",
            str("scales of ", sums.misfits, " groups do not fit the codes (", error, ")", changed)};
  if (!known.changed.empty())
    return {"checksum", str(known.changed, " differ from what was saved (checksum); ", error)};
  if (!as_logged) return {"error", error};
  return {};
}

}  // namespace aq
