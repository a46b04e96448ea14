#include "aq/plan/cost.h"

#include <algorithm>
#include <cmath>

#include "aq/quant/hessian.h"
#include "plan/cost_forward.h"
#include "plan/cost_stage.h"
#include "plan/memory.h"
#include "plan/placement.h"
#include "plan/sum_traffic.h"

namespace aq {
namespace {

constexpr double kFloat = 4;

/// How many of a rank's tokens a task sees: all of them, or an even share of the routed ones.
struct TokenShare {
  double hessian = 1;  ///< of the rank's tokens, for the sum
  double forward = 1;  ///< for the forward pass
};

class CostSum {
 public:
  CostSum(const Model& model, const QuantizeSettings& settings, const Plan& plan,
          const Workload& workload, const CostOptions& options)
      : model_(model),
        settings_(settings),
        plan_(plan),
        workload_(workload),
        options_(options),
        dealt_(workload, plan.ranks),
        sums_(workload.lanes, plan.ranks),
        clock_(options, plan.ranks),
        ranks_(static_cast<std::size_t>(plan.ranks)) {
    estimate_.token_ranks = static_cast<int>(std::count_if(
        dealt_.tokens.begin(), dealt_.tokens.end(), [](double tokens) { return tokens > 0; }));
  }

  CostEstimate run() {
    embed();
    for (std::size_t i = 0; i < plan_.layers.size(); ++i) layer(model_.layers[i], plan_.layers[i]);
    stage(plan_.head, {}, {.quantized = 0});
    finish();
    return std::move(estimate_);
  }

 private:
  void embed() {
    start();
    const double width = options_.weight_bytes(model_.head) * static_cast<double>(model_.hidden);
    each_rank([&](std::size_t r, StageWork& rank) {
      const double rows = std::min(dealt_.tokens[r], static_cast<double>(model_.vocabulary));
      rank.work.traffic.read += rows * width;
    });
    end(Stage::embed);
  }

  void layer(const LayerSpec& spec, const LayerPlan& plan) {
    bool differentiates = false;
    for (const StagePlan& before : plan.before_mlps) {
      const bool outputs = before.has_output_factors();
      differentiates = differentiates || outputs;
      if (before.stage == Stage::o) attention(spec.attention, differentiates);
      ForwardUse forward = forward_use(settings_, before.stage);
      if (outputs || (before.stage == Stage::o && differentiates)) forward.original += 1;
      stage(before, {}, forward);
    }
    for (const WavePlan& wave : plan.waves) {
      const bool routed = wave.is_routed();
      TokenShare share;
      if (routed) {
        share.forward = static_cast<double>(spec.moe->routing.top_k) /
                        static_cast<double>(spec.moe->routing.experts);
        if (settings_.expert_tokens == ExpertTokens::routed) share.hessian = share.forward;
      }
      if (routed && plan_.dispatch && settings_.expert_tokens == ExpertTokens::routed) {
        dispatched_stage(wave.gate_up, share, forward_use(settings_, Stage::gate_up));
        dispatched_stage(wave.down, share, forward_use(settings_, Stage::down));
        continue;
      }
      stage(wave.gate_up, share, forward_use(settings_, Stage::gate_up));
      stage(wave.down, share, forward_use(settings_, Stage::down));
    }
    save();
  }

  /// Scores and values of causal attention.
  void attention(const AttentionSpec& spec, bool differentiates) {
    start();
    const double pairs = attention_pairs(spec, static_cast<double>(workload_.sequence_length));
    const double products = attention_products(spec, settings_, differentiates);
    each_rank([&](std::size_t r, StageWork& rank) {
      rank.work.flops.attention +=
          dealt_.sequences[r] * pairs * 2 * static_cast<double>(spec.heads) * products;
    });
    end(Stage::core);
  }

  template <class Body>
  void each_rank(const Body& body) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) body(r, ranks_[r]);
  }

  void start() {
    std::fill(ranks_.begin(), ranks_.end(), StageWork{});
    packed_ = longest_slice_ = 0;
  }

  /// A stage of the layer whose sums travel to their owners.
  void stage(const StagePlan& plan, TokenShare share, ForwardUse use) {
    start();
    for (const TaskPlan& task : plan.tasks) quantize(task, share);
    run_own_tokens(plan, share, use);
    reduce(plan);
    gather();
    end(plan.stage);
  }

  /// A stage of routed experts whose tokens travel to the owners. gate and up get them, and give
  /// down what it reads; outputs of down come back.
  void dispatched_stage(const StagePlan& plan, TokenShare share, ForwardUse use) {
    start();
    const double tokens = dealt_.all_tokens * share.forward;  // of one expert
    const bool down = plan.stage == Stage::down;
    std::vector<double> experts(ranks_.size(), 0);
    for (const TaskPlan& task : plan.tasks) {
      quantize(task, share);
      experts[task.owner] += 1;
      StageWork& owner = ranks_[task.owner];
      const TaskForward once = forward_of(task, use, options_);
      estimate_.hessian_bytes += once.kept;
      owner.work.flops.hessian += tokens * once.products;
      owner.work.flops.forward += 2 * once.weights * tokens;
      owner.work.traffic.dequantized += once.unpacked;
      owner.work.traffic.read += once.originals;
    }
    // The inputs once for each pass, and what they lack; the outputs once, and twice through
    // original weights.
    double passes = down ? 1 : settings_.sequential == Sequential::layer ? 2 : 1;
    if (settings_.runs_original()) passes += down ? 2 : 4;
    const double row = static_cast<double>(model_.hidden) * kFloat * passes;
    const auto count = static_cast<double>(plan.tasks.size());
    each_rank([&](std::size_t r, StageWork& rank) {
      const double own = dealt_.tokens[r] * share.forward;  // of one expert
      const double away = own * (count - experts[r]) * row;
      const double here = (tokens - own) * experts[r] * row;
      rank.work.traffic.dispatch_sent += down ? here : away;
      rank.work.traffic.dispatch_received += down ? away : here;
    });
    packed_ = longest_slice_ = 0;  // results stay with their owners
    each_rank([](std::size_t, StageWork& rank) { rank.work.traffic.exchange_sent = 0; });
    end(plan.stage);
  }

  /// Sums come to their owners, in the way that reduce_to_owners takes.
  void reduce(const StagePlan& plan) {
    SumOwners hessians, crosses, outputs;
    for (const TaskPlan& task : plan.tasks) {
      if (!task.needs_hessian) continue;
      hessians[hessian_size(task.columns)].push_back(task.owner);
      if (task.cross_rows > 0) crosses[task.cross_rows * task.columns].push_back(task.owner);
      if (task.output_rows > 0) outputs[task.output_rows * kRowTile].push_back(task.owner);
    }
    reduce(hessians);
    reduce(crosses);
    reduce(outputs);
  }

  /// The owners of sums of so many values.
  using SumOwners = std::map<Index, std::vector<int>>;

  void reduce(const SumOwners& owners) {
    if (plan_.ranks == 1 || owners.empty()) return;
    ReduceWays ways(plan_.ranks);
    for (const auto& [values, of] : owners) ways.add(sums_.of(values), of);
    const ReduceTraffic& traffic = ways.traffic();
    const double rounds =
        ways.along_tree() ? 1 + std::log2(static_cast<double>(workload_.lanes.lanes)) : 0;
    each_rank([&](std::size_t r, StageWork& rank) {
      rank.work.traffic.reduce_sent += static_cast<double>(traffic.sent[r]);
      rank.work.traffic.reduce_received += static_cast<double>(traffic.received[r]);
      rank.reduce_rounds += rounds;
    });
  }

  void quantize(const TaskPlan& task, TokenShare share) {
    const auto n = static_cast<double>(task.columns);
    StageWork& owner = ranks_[task.owner];
    if (task.needs_hessian) {
      owner.factors += 1;
      owner.factor_flops = n * n * n / 3;
      owner.work.flops.factor += owner.factor_flops;
    }
    const bool refines = dealt_.all_tokens * share.hessian >= kRefineTokensPerColumn * n;
    const double sweeps = refines ? settings_.gptq.refine : 0;
    std::vector<int> solvers;
    for (const MatrixPlan& matrix : task.matrices) {
      const Scheme& scheme = matrix.assignment.scheme;
      const bool gptq = matrix.assignment.method == Method::gptq;
      const double bytes = options_.weight_bytes(matrix.linear);
      for (const Slice& slice : matrix.slices) {
        StageWork& rank = ranks_[slice.rank];
        const auto rows = static_cast<double>(slice.rows.size());
        const double read = rows + (scheme.is_nvfp4() || scheme.group_size == kPerTensor
                                        ? static_cast<double>(matrix.linear.rows)
                                        : 0);
        rank.work.traffic.read += read * n * bytes;
        rank.tiles += std::ceil(rows / static_cast<double>(kRowTile));
        solvers.push_back(slice.rank);
        add_slice(rank, matrix, slice);
        if (matrix.coupled && slice.rank != task.owner)
          send_to_solver(task.owner, slice.rank, rows * static_cast<double>(kRowTile) * kFloat);
        if (!gptq) continue;
        rank.work.flops.solve +=
            rows * n * n *
            (1 + target_flops(task.cross_of) + 2.0 / static_cast<double>(kErrorRowStride));
        const int kinds = matrix.coupled ? 2 : 1;  // by row, then of all rows of a tile
        rank.work.flops.refine += rows * refine_flops(n, kinds * sweeps);
      }
    }
    if (task.split && task.needs_hessian) send_factor(task, solvers);
  }

  void add_slice(StageWork& rank, const MatrixPlan& matrix, const Slice& slice) {
    const Scheme& scheme = matrix.assignment.scheme;
    const auto columns = matrix.linear.columns;
    const auto packed = static_cast<double>(packed_bytes(scheme, slice.rows.size(), columns));
    packed_ += packed;
    longest_slice_ = std::max(longest_slice_, packed);
    rank.work.traffic.exchange_sent += packed;
    if (matrix.writer() != slice.rank) return;
    const double stored = static_cast<double>(stored_bits(scheme, matrix.linear.rows, columns)) / 8;
    shard_[slice.rank] += stored;
    estimate_.shard_bytes += stored;
  }

  /// U, and for refinement the damped H, go from the owner to the other ranks with rows.
  void send_factor(const TaskPlan& task, std::vector<int>& solvers) {
    const auto n = static_cast<double>(task.columns);
    const double bytes =
        n * kFloat *
        (n * (0.5 + (settings_.gptq.refine > 0 ? 1 : 0)) + static_cast<double>(task.cross_rows));
    std::sort(solvers.begin(), solvers.end());
    solvers.erase(std::unique(solvers.begin(), solvers.end()), solvers.end());
    for (const int rank : solvers)
      if (rank != task.owner) send_to_solver(task.owner, rank, bytes);
  }

  void send_to_solver(int owner, int solver, double bytes) {
    ranks_[solver].work.traffic.exchange_received += bytes;
    ranks_[owner].work.traffic.exchange_sent += bytes;
    ranks_[owner].messages += std::ceil(bytes / static_cast<double>(kPieceBytes));
  }

  /// Sums over the rank's own tokens, and these through the stage's linears; each weight is
  /// unpacked or read where it is used.
  void run_own_tokens(const StagePlan& plan, TokenShare share, ForwardUse use) {
    TaskForward all;
    for (const TaskPlan& task : plan.tasks) {
      const TaskForward once = forward_of(task, use, options_);
      estimate_.hessian_bytes += once.kept;
      all.products += once.products;
      all.weights += once.weights;
      all.unpacked += once.unpacked;
      all.originals += once.originals;
    }
    each_rank([&](std::size_t r, StageWork& rank) {
      const double tokens = dealt_.tokens[r] * share.forward;
      if (tokens == 0) return;
      const double met = share.forward < 1 ? 1 - std::exp(-tokens) : 1;
      rank.work.flops.hessian += dealt_.tokens[r] * share.hessian * all.products;
      rank.work.flops.forward += 2 * all.weights * tokens;
      rank.work.traffic.dequantized += met * all.unpacked;
      rank.work.traffic.read += met * all.originals;
    });
  }

  /// Packed results to every rank.
  void gather() {
    if (plan_.ranks == 1) return;
    each_rank(
        [&](std::size_t, StageWork& rank) { rank.work.traffic.exchange_received += packed_; });
  }

  /// How evenly factor and solution of the stage are dealt.
  void balance(StageCost& cost) {
    double most = 0, all = 0;
    for (const StageWork& rank : ranks_) {
      const Flops& flops = rank.work.flops;
      const double work = flops.factor + flops.solve + flops.refine;
      most = std::max(most, work);
      all += work;
    }
    if (most == 0) return;
    const double mean = all / plan_.ranks;
    cost.mean_work += mean;
    cost.most_work += most;
    mean_work_ += mean;
    most_work_ += most;
    estimate_.least_balance = std::min(estimate_.least_balance, mean / most);
  }

  /// Shards of the layer.
  void save() {
    start();
    each_rank([&](std::size_t r, StageWork& rank) {
      rank.work.traffic.written += shard_[r];
      if (shard_[r] > 0) ++estimate_.shard_files;
    });
    std::fill(shard_.begin(), shard_.end(), 0);
    end(Stage::layer);
  }

  void end(Stage stage) {
    const auto same = [&](const StageCost& cost) { return cost.stage == stage; };
    auto cost = std::find_if(estimate_.stages.begin(), estimate_.stages.end(), same);
    if (cost == estimate_.stages.end())
      cost = estimate_.stages.insert(cost, StageCost{.stage = stage, .seconds = {}});
    balance(*cost);
    for (const auto& [phase, seconds] : clock_.seconds(ranks_, packed_, longest_slice_)) {
      cost->seconds[phase] += seconds;
      estimate_.seconds[phase] += seconds;
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      add(ranks_[r].work, totals_[r]);
    }
  }

  void finish() {
    save();
    estimate_.seconds[Phase::merge] = clock_.merge_seconds(estimate_.shard_bytes);
    for (const RankWork& rank : totals_) {
      add(rank, estimate_.all);
      raise(rank, estimate_.most);
    }
    for (const auto& [phase, seconds] : estimate_.seconds) estimate_.total_seconds += seconds;
    if (most_work_ > 0) estimate_.balance = mean_work_ / most_work_;
  }

  const Model& model_;
  const QuantizeSettings& settings_;
  const Plan& plan_;
  const Workload& workload_;
  const CostOptions& options_;
  Dealt dealt_;
  SumTraffics sums_;
  StageClock clock_;
  std::vector<StageWork> ranks_;  ///< of the stage in work
  std::vector<RankWork> totals_ = std::vector<RankWork>(ranks_.size());
  std::vector<double> shard_ = std::vector<double>(ranks_.size());  ///< bytes of the layer
  double packed_ = 0, longest_slice_ = 0;
  double mean_work_ = 0, most_work_ = 0;
  CostEstimate estimate_;
};

}  // namespace

double StageCost::total() const {
  double all = 0;
  for (const auto& [phase, value] : seconds) all += value;
  return all;
}

CostEstimate estimate_cost(const Model& model, const QuantizeSettings& settings, const Plan& plan,
                           const Workload& workload, const CostOptions& options) {
  return CostSum(model, settings, plan, workload, options).run();
}

}  // namespace aq
