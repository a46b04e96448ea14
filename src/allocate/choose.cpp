#include "aq/allocate/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace aq {
namespace {

/// A way to choose for the units so far.
struct State {
  Index bits = 0;
  double loss = 0;
  Index before = -1;  ///< in the states of the unit before
  Index option = -1;
};

/// Ascending in bits, descending in loss: what another state beats is left out.
void keep_best(std::vector<State>& states) {
  std::ranges::stable_sort(states, [](const State& a, const State& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.loss < b.loss;
  });
  double least = std::numeric_limits<double>::infinity();
  std::erase_if(states, [&](const State& state) {
    if (!(state.loss < least)) return true;
    least = state.loss;
    return false;
  });
}

/// The least loss of the units from one on, for any bits: the lower hull of their options, relaxed.
/// A step of the hull takes bits and gives back loss; steps are taken by what they give a bit.
class Rest {
 public:
  explicit Rest(const std::vector<std::vector<UnitOption>>& units) : first_(units.size() + 1) {
    for (std::size_t unit = 0; unit < units.size(); ++unit) add_unit(units[unit], unit);
    std::ranges::stable_sort(steps_, [](const Step& a, const Step& b) {
      return a.loss * static_cast<double>(b.bits) > b.loss * static_cast<double>(a.bits);
    });
    for (std::size_t unit = units.size(); unit-- > 0;) {
      first_[unit].bits += first_[unit + 1].bits;
      first_[unit].loss += first_[unit + 1].loss;
    }
  }

  /// Of the smallest options of the units from `unit` on.
  Index least_bits(std::size_t unit) const { return first_[unit].bits; }

  /// Sums of the steps of the units from `unit` on, in their order.
  struct Curve {
    Index bits = 0;
    double loss = 0;
    std::vector<Index> step_bits;
    std::vector<double> losses;  ///< behind each step

    /// No choice of these units that takes `most` bits loses less.
    double least_loss(Index most) const {
      const auto after = std::ranges::upper_bound(step_bits, most);
      const auto taken = after - step_bits.begin();
      const Index spent = taken == 0 ? bits : step_bits[taken - 1];
      const double reached = taken == 0 ? loss : losses[taken - 1];
      if (after == step_bits.end()) return reached;
      const double part =
          static_cast<double>(most - spent) / static_cast<double>(step_bits[taken] - spent);
      return reached + part * (losses[taken] - reached);
    }
  };
  Curve curve(std::size_t unit) const {
    Curve all{first_[unit].bits, first_[unit].loss, {}, {}};
    Index bits = all.bits;
    double loss = all.loss;
    for (const Step& step : steps_)
      if (step.unit >= unit) {
        all.step_bits.push_back(bits += step.bits);
        all.losses.push_back(loss -= step.loss);
      }
    return all;
  }

 private:
  struct Step {
    std::size_t unit = 0;
    Index bits = 0;
    double loss = 0;  ///< that it takes away
  };

  void add_unit(const std::vector<UnitOption>& options, std::size_t unit) {
    std::vector<State> points;
    for (const UnitOption& option : options)
      if (option.allowed) points.push_back({option.bits, option.loss});
    keep_best(points);
    first_[unit] = points.front();
    for (std::size_t from = 0; from + 1 < points.size();) {
      const auto slope = [&](std::size_t to) {
        return (points[from].loss - points[to].loss) /
               static_cast<double>(points[to].bits - points[from].bits);
      };
      std::size_t next = from + 1;
      for (std::size_t to = next + 1; to < points.size(); ++to)
        if (slope(to) >= slope(next)) next = to;
      steps_.push_back(
          {unit, points[next].bits - points[from].bits, points[from].loss - points[next].loss});
      from = next;
    }
  }

  std::vector<State> first_;  ///< sums of the smallest options from each unit on
  std::vector<Step> steps_;   ///< those that give most a bit first
};

/// The loss of taking the hull's steps one after the other while they fit: some choice reaches it.
double reached_loss(const Rest::Curve& curve, Index most_bits) {
  const auto taken = std::ranges::upper_bound(curve.step_bits, most_bits) - curve.step_bits.begin();
  return taken == 0 ? curve.loss : curve.losses[taken - 1];
}

}  // namespace

std::optional<std::vector<Index>> choose_options(const std::vector<std::vector<UnitOption>>& units,
                                                 Index most_bits) {
  const Rest rest(units);
  if (rest.least_bits(0) > most_bits) return std::nullopt;
  const Rest::Curve whole = rest.curve(0);
  const double reached = reached_loss(whole, most_bits);
  // A little above: the same losses are rounded otherwise when they are added in another order.
  const double bound = reached + 1e-9 * std::abs(reached) + 1e-12 * std::abs(whole.loss);
  std::vector<std::vector<State>> levels{{State{}}};
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    const Rest::Curve curve = rest.curve(unit + 1);
    std::vector<State> next;
    for (Index before = 0; before < std::ssize(levels.back()); ++before) {
      const State& state = levels.back()[before];
      for (Index option = 0; option < std::ssize(units[unit]); ++option) {
        const UnitOption& one = units[unit][option];
        const State grown{state.bits + one.bits, state.loss + one.loss, before, option};
        if (one.allowed && grown.bits + rest.least_bits(unit + 1) <= most_bits &&
            grown.loss + curve.least_loss(most_bits - grown.bits) <= bound)
          next.push_back(grown);
      }
    }
    keep_best(next);
    levels.push_back(std::move(next));
  }
  std::vector<Index> chosen(units.size());
  Index place = std::ssize(levels.back()) - 1;  // the most bits, so the least loss
  for (std::size_t unit = units.size(); unit-- > 0;) {
    const State& state = levels[unit + 1][place];
    chosen[unit] = state.option;
    place = state.before;
  }
  return chosen;
}

}  // namespace aq
