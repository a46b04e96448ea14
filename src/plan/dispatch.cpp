#include "aq/plan/dispatch.h"

#include <algorithm>
#include <numeric>

#include "aq/core/text.h"
#include "aq/quant/hessian.h"
#include "plan/placement.h"

namespace aq {
namespace {

constexpr double kFloat = 4;

/// Multiply-adds of one expert: solving, and summing and running its tokens.
double expert_cost(const TaskPlan& gate_up, const TaskPlan& down, std::int64_t tokens) {
  const auto columns = [](const TaskPlan& task) { return static_cast<double>(task.columns); };
  const double sums = (columns(gate_up) * columns(gate_up) + columns(down) * columns(down)) / 2;
  const double run = 3 * columns(gate_up) * columns(down);
  return task_cost(gate_up) + task_cost(down) + static_cast<double>(tokens) * (sums + run);
}

void add_expert(const WavePlan& wave, Index position, ExpertTasks& tasks) {
  tasks.experts.push_back(wave.experts.begin + position);
  tasks.gate_up.tasks.push_back(wave.gate_up.tasks[static_cast<std::size_t>(position)]);
  tasks.down.tasks.push_back(wave.down.tasks[static_cast<std::size_t>(position)]);
}

/// The whole task at one rank.
void own(TaskPlan& task, int rank) {
  task.owner = rank;
  task.split = false;
  for (MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy) matrix.slices = {{rank, {0, matrix.linear.rows}}};
}

/// Forgets where the tasks were placed.
void place_again(StagePlan& stage, int ranks, int rotation) {
  for (TaskPlan& task : stage.tasks)
    for (MatrixPlan& matrix : task.matrices) matrix.slices.clear();
  place_stage(stage, ranks, rotation);
}

}  // namespace

std::string_view tokens_to_experts_name(TokensToExperts way) {
  switch (way) {
    case TokensToExperts::automatic:
      return "auto";
    case TokensToExperts::reduce:
      return "reduce";
    case TokensToExperts::dispatch:
      return "dispatch";
  }
  return "?";
}

std::optional<TokensToExperts> tokens_to_experts_from_name(std::string_view name) {
  for (const auto way :
       {TokensToExperts::automatic, TokensToExperts::reduce, TokensToExperts::dispatch})
    if (name == tokens_to_experts_name(way)) return way;
  return std::nullopt;
}

ExpertTraffic expert_traffic(const Model& model, const LayerSpec& layer, double packed_bits,
                             const Workload& workload, int ranks) {
  ExpertTraffic traffic;
  if (!layer.moe || ranks < 2) return traffic;
  const auto experts = static_cast<double>(layer.moe->routing.experts);
  const auto hidden = static_cast<double>(model.hidden);
  const Index width = layer.moe->experts.front().gate.rows;
  const double away = 1 - 1.0 / ranks;  // share of experts that live elsewhere
  const double sums =
      static_cast<double>(hessian_size(model.hidden) + hessian_size(width)) * kFloat;
  const double weights = 3 * hidden * static_cast<double>(width);
  const double with_lanes = std::min<double>(ranks, static_cast<double>(workload.lanes.lanes));
  // Every rank with lanes sends a sum of each expert, an owner receives one from each of them.
  traffic.reduce = experts * away * (sums * (1 + with_lanes / ranks) + weights * packed_bits / 8);
  traffic.weights = experts * weights * kFloat;
  const double pairs = static_cast<double>(workload.lanes.sequences * workload.sequence_length *
                                           layer.moe->routing.top_k) /
                       ranks;
  traffic.dispatch = 4 * pairs * away * hidden * kFloat;  // there and back, sent and received
  return traffic;
}

ChosenWay choose_way(TokensToExperts asked, const Model& model, double packed_bits,
                     const Workload& workload, int ranks) {
  const std::vector<const LayerSpec*> layers = model.moe_layers();
  if (layers.empty() || ranks < 2) return {false, "there is nothing to bring together"};
  const LayerSpec& layer = *layers.front();
  const Index experts = layer.moe->routing.experts;
  if (experts < ranks) {
    if (asked == TokensToExperts::dispatch)
      throw Error(ErrorKind::policy, "plan the run", "--tokens-to-experts dispatch",
                  str(experts, " experts are too few for ", ranks, " ranks"),
                  "use reduce, or fewer ranks");
    return {false, str("fewer experts (", experts, ") than ranks")};
  }
  if (asked != TokensToExperts::automatic)
    return {asked == TokensToExperts::dispatch, "it was asked for"};
  const ExpertTraffic traffic = expert_traffic(model, layer, packed_bits, workload, ranks);
  const double reduce = traffic.reduce + traffic.weights;
  const auto bytes = [](double count) { return bytes_text(static_cast<Index>(count)); };
  return {traffic.dispatch < reduce,
          str("a rank and layer: ", bytes(traffic.dispatch), " of tokens against ",
              bytes(traffic.reduce), " of sums and packed weights and ", bytes(traffic.weights),
              " of weights to unpack")};
}

WaveSplit reduce_wave(const WavePlan& wave) {
  WaveSplit split;
  split.reduced.gate_up = wave.gate_up;
  split.reduced.down = wave.down;
  for (Index e = wave.experts.begin; e < wave.experts.end; ++e) split.reduced.experts.push_back(e);
  return split;
}

WaveSplit split_wave(const WavePlan& wave, std::span<const std::int64_t> tokens,
                     const std::vector<bool>& stays, int ranks) {
  WaveSplit split;
  const Index count = wave.experts.size();
  std::vector<double> costs;
  for (Index i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    costs.push_back(expert_cost(wave.gate_up.tasks[at], wave.down.tasks[at],
                                tokens[static_cast<std::size_t>(wave.experts.begin + i)]));
  }
  const double mean = std::accumulate(costs.begin(), costs.end(), 0.0) / ranks;
  std::vector<double> dispatched_costs;
  for (Index i = 0; i < count; ++i) {
    const double cost = costs[static_cast<std::size_t>(i)];
    const bool everywhere = stays[static_cast<std::size_t>(wave.experts.begin + i)] ||
                            (ranks > 1 && cost > kHotShare * mean);
    add_expert(wave, i, everywhere ? split.reduced : split.dispatched);
    if (!everywhere) dispatched_costs.push_back(cost);
  }
  const int rotation = static_cast<int>(wave.experts.begin % ranks);
  const std::vector<int> placed = place_longest_first(dispatched_costs, ranks);
  for (std::size_t i = 0; i < placed.size(); ++i) {
    const int owner = (placed[i] + rotation) % ranks;
    own(split.dispatched.gate_up.tasks[i], owner);
    own(split.dispatched.down.tasks[i], owner);
  }
  place_again(split.reduced.gate_up, ranks, rotation);
  place_again(split.reduced.down, ranks, (rotation + 1) % ranks);
  return split;
}

}  // namespace aq
