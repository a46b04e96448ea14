#include "aq/forward/calibration.h"

#include <cmath>
#include <numeric>
#include <optional>

#include "aq/core/parallel.h"
#include "aq/forward/shared_input.h"
#include "aq/quant/workspace.h"
#include "aq/runtime/operations.h"
#include "forward/expert_threads.h"

namespace aq {
namespace {

/// s^p of each score, and their sum.
std::vector<float> powers(std::span<const float> scores, double exponent, double& sum) {
  std::vector<float> weights;
  weights.reserve(scores.size());
  for (const float score : scores) {
    const double weight = std::pow(static_cast<double>(score), exponent);
    weights.push_back(static_cast<float>(weight));
    sum += static_cast<double>(weights.back());
  }
  return weights;
}

/// Both sums of one lane, over tokens that come piece by piece.
struct LaneSums {
  WeightedSum hessian, cross;

  /// @param d  what the tokens lack; empty without a second stream
  void add(const Solver& solver, const Tensor& x, const Tensor& d,
           std::span<const std::int32_t> rows, std::span<const float> weights, double weight_sum) {
    solver.add_tokens(hessian, x.host(), rows, weights, weight_sum);
    if (d.columns() > 0) solver.add_cross(cross, d.host(), x.host(), rows, weights, weight_sum);
  }
};

/// The tree of the lanes' sums; threads take lanes. Inside a parallel_for, and of wide sums, one
/// lane after the other.
template <class LaneSum>
TaskPartials sum_lanes(const Batch& batch, Index columns, const LaneSum& lane_sums_of) {
  TreeSum hessian, cross;
  const Index step = in_parallel_for() || columns >= kWideSum ? 1 : thread_count();
  for (Index first = 0; first < batch.lanes(); first += step) {
    const Index count = std::min(step, batch.lanes() - first);
    std::vector<LaneSums> sums(count);
    parallel_for(count, [&](Index i) { sums[i] = lane_sums_of(first + i); });
    for (Index i = 0; i < count; ++i) {
      hessian.add_lane(batch.first_lane + first + i, std::move(sums[i].hessian));
      cross.add_lane(batch.first_lane + first + i, std::move(sums[i].cross));
    }
  }
  return {hessian.take(), cross.take(), {}};
}

/// use(piece, make(piece)) of each piece in order, whose makings run side by side on threads that
/// are free. `ahead`: whether making takes so long that it is worth the memory.
template <class Make, class Use>
void in_order(const std::vector<Range>& pieces, bool ahead, const Make& make, const Use& use) {
  const Index step = ahead && !in_parallel_for() ? thread_count() : 1;
  for (Index first = 0; first < std::ssize(pieces); first += step) {
    const Index count = std::min(step, std::ssize(pieces) - first);
    std::vector<decltype(make(pieces[0]))> made(count);
    parallel_for(count, [&](Index i) { made[i] = make(pieces[first + i]); });
    for (Index i = 0; i < count; ++i) use(pieces[first + i], made[i]);
  }
}

/// Every token with weight 1; `input(rows)` are the rows that are summed.
template <class Input>
TaskPartials sum_all(const Solver& solver, const Batch& batch, Index columns, const Input& input,
                     const Lack& lack) {
  struct Made {
    Tensor x, d;
  };
  return sum_lanes(batch, columns, [&](Index lane) {
    LaneSums sums;
    in_order(
        pieces_of(batch.rows_of_lane(lane)), static_cast<bool>(lack),
        [&](Range rows) {
          Tensor x = input(rows);
          Tensor d = lack ? lack(x, rows) : Tensor{};
          return Made{std::move(x), std::move(d)};
        },
        [&](Range rows, const Made& made) {
          sums.add(solver, made.x, made.d, {}, {}, static_cast<double>(rows.size()));
        });
    return sums;
  });
}

/// The inputs of some tokens of an expert, and what they lack: rows `rows` of both, or all of them
/// when empty.
struct PieceInput {
  Tensor x, d;
  std::span<const std::int32_t> rows;
};

/// Σ s^p x xᵀ over one expert's tokens; `input(places)` of its list.
template <class Input>
TaskPartials sum_routed(const ExpertSums& sums, const TokenList& list, Index columns,
                        const Input& input) {
  return sum_lanes(sums.pass.batch, columns, [&](Index lane) {
    LaneSums lane_sums;
    in_order(pieces_of(list.lane(lane)), sums.pass.drift != nullptr, input,
             [&](Range places, const PieceInput& in) {
               double weight_sum = 0;
               const std::vector<float> weights =
                   powers(list.weights_at(places), sums.exponent, weight_sum);
               lane_sums.add(sums.solver, in.x, in.d, in.rows, weights, weight_sum);
             });
    return lane_sums;
  });
}

std::vector<std::int32_t> numbers_of(Range rows) {
  std::vector<std::int32_t> numbers(rows.size());
  std::iota(numbers.begin(), numbers.end(), checked_cast<std::int32_t>(rows.begin));
  return numbers;
}

/// An MLP with its original weights.
class OriginalMlp {
 public:
  OriginalMlp(const MlpSpec& mlp, const Weights& weights)
      : gate_up_(mlp, weights), down_(weights.used(mlp.down)) {
    down_.bias.clear();
  }

  /// down of what tokens `rows` of `normed` lack beside their hidden values a (float32).
  Tensor lack(const Tensor& normed, std::span<const std::int32_t> rows, const Tensor& a) const {
    Tensor original = gate_up_.hidden(normed, rows);
    if (original.kind() != down_.weight.kind())  // rounded as a was
      original = original.as(down_.weight.kind().dtype).as(DType::f32);
    return SharedInput(runtime::difference(original, a)).multiply(down_);
  }

 private:
  GateUp gate_up_;
  UsedLinear down_;
};

/// What down of one expert reads, and lacks.
struct DownInputs {
  const ExpertPass& pass;
  const GateUp& weights;
  std::optional<OriginalMlp> original = std::nullopt;

  DownInputs(const ExpertPass& of, const GateUp& gate_up, Index expert)
      : pass(of), weights(gate_up) {
    if (pass.drift != nullptr) original.emplace(pass.layer.mlp(expert), pass.drift->original);
  }

  /// Of tokens of its list, with their part of what the MLPs owe.
  Tensor routed_lack(const TokenList& list, Range places, const Tensor& a) const {
    if (!original) return {};
    const std::span<const std::int32_t> rows = list.rows_at(places);
    Tensor lack = original->lack(pass.normed, rows, a);
    runtime::add_weighted(runtime::gather_rows(pass.drift->output, rows),
                          numbers_of({0, places.size()}), list.weights_at(places), lack);
    return lack;
  }

  /// Σ over every token, those among them that it does not serve: it aims at what it would give for
  /// their inputs in the original model.
  TaskPartials sum_all_tokens(const Solver& solver) const {
    Lack lack;
    if (original)
      lack = [this](const Tensor& a, Range rows) {
        Tensor there = pass.normed.window(rows).clone();
        runtime::add(pass.drift->input.window(rows), there.window());
        return original->lack(there, numbers_of({0, rows.size()}), a);
      };
    return sum_all(
        solver, pass.batch, weights.gate.weight.rows(),
        [this](Range rows) { return weights.hidden(pass.normed, numbers_of(rows)); }, lack);
  }
};

/// Places in `experts` of those that have tokens here, or are summed over those of all experts.
std::vector<Index> busy(const ExpertPass& pass, std::span<const CalibratedExpert> experts) {
  std::vector<Index> places;
  for (Index i = 0; i < std::ssize(experts); ++i) {
    const auto& [expert, summed] = experts[i];
    if (pass.tokens(expert).size() > 0 || summed == CalibratedOn::all) places.push_back(i);
  }
  return places;
}

}  // namespace

Lack input_lack(LinearInput original) {
  return [input = std::move(original)](const Tensor& x, Range rows) {
    return runtime::difference(input.rows(rows), x);
  };
}

TaskPartials sum_tokens(const Solver& solver, const Batch& batch, const LinearInput& input,
                        const Lack& lack) {
  return sum_all(
      solver, batch, input.x.columns(), [&](Range rows) { return input.rows(rows); }, lack);
}

std::vector<TaskPartials> ExpertSums::gate_up(std::span<const CalibratedExpert> experts) const {
  std::vector<TaskPartials> sums(experts.size());
  for_each_expert(busy(pass, experts), [&](Index i) {
    const auto& [expert, summed] = experts[i];
    if (summed != CalibratedOn::routed) return;
    const TokenList& list = pass.tokens(expert);
    sums[i] = sum_routed(*this, list, pass.normed.columns(), [&](Range places) {
      return PieceInput{pass.normed.window(),
                        pass.drift != nullptr ? pass.drift->input.window() : Tensor{},
                        list.rows_at(places)};
    });
  });
  // Experts that are calibrated on all tokens have the same sum: it is computed once.
  Lack lack;
  if (pass.drift != nullptr)
    lack = [&](const Tensor&, Range rows) { return pass.drift->input.window(rows); };
  const TaskPartials* first = nullptr;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    if (experts[i].tokens != CalibratedOn::all) continue;
    sums[i] = first != nullptr ? *first : sum_tokens(solver, pass.batch, {pass.normed}, lack);
    first = &sums[i];
  }
  return sums;
}

std::vector<TaskPartials> ExpertSums::down(std::span<const CalibratedExpert> experts,
                                           ByExpert* hidden) const {
  std::vector<TaskPartials> sums(experts.size());
  if (hidden != nullptr)
    for (const CalibratedExpert& each : experts)
      if (pass.tokens(each.expert).size() > 0) (*hidden)[each.expert];
  for_each_expert(busy(pass, experts), [&](Index i) {
    const auto& [expert, summed] = experts[i];
    const TokenList& list = pass.tokens(expert);
    const bool runs = hidden != nullptr || summed == CalibratedOn::routed;
    if (!(runs && list.size() > 0) && summed != CalibratedOn::all) return;
    const GateUp weights(pass.layer.mlp(expert), pass.weights);
    Tensor out;
    if (runs && list.size() > 0) out = weights.hidden(pass.normed, list);
    if (summed != CalibratedOn::nothing) {
      const DownInputs inputs(pass, weights, expert);
      sums[i] = summed == CalibratedOn::all
                    ? inputs.sum_all_tokens(solver)
                    : sum_routed(*this, list, out.columns(), [&](Range places) {
                        Tensor a = LinearInput{out}.rows(places);
                        Tensor lack = inputs.routed_lack(list, places, a);
                        return PieceInput{std::move(a), std::move(lack), {}};
                      });
    }
    if (hidden != nullptr && list.size() > 0) hidden->at(expert) = std::move(out);
  });
  return sums;
}

}  // namespace aq
