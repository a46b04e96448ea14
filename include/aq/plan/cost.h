#pragma once
/// What a plan costs: work, bytes and seconds of every rank, computed beforehand.

#include <functional>
#include <map>
#include <vector>

#include "aq/plan/machine.h"
#include "aq/plan/plan.h"

namespace aq {

/// Operations that refine a row of n columns: n² for E H from what GPTQ missed, and for a sweep
/// what four of them took on average (docs/performance.md); how many scales and codes change, the
/// data decides.
constexpr double refine_flops(double n, double sweeps) {
  return sweeps > 0 ? n * n * (1 + 0.9 * sweeps) : 0;
}

/// Operations for each row and column pair to find where a row of n columns should aim: two
/// triangles solved, of inputs after a product.
constexpr double target_flops(CrossSum cross) {
  return cross == CrossSum::none ? 0 : cross == CrossSum::inputs ? 4 : 2;
}

/// Floating point operations by kind.
struct Flops {
  double forward = 0;    ///< linears over calibration tokens
  double attention = 0;  ///< scores and values
  double hessian = 0;  ///< sums over inputs: tokens * n * (n + 1), and 2 n for a row of a cross sum
  double factor = 0;   ///< n^3 / 3 a Hessian
  double solve = 0;    ///< n^2 (1 + target_flops()) a row, and the errors beside every 16th
  double refine = 0;   ///< refine_flops() a row
  double total() const { return forward + attention + hessian + factor + solve + refine; }
};

/// Bytes of one rank.
struct Traffic {
  double read = 0;         ///< of the checkpoint
  double dequantized = 0;  ///< memory traffic of weights that are unpacked for the forward pass
  double reduce_sent = 0, reduce_received = 0;      ///< partial Hessian sums
  double exchange_sent = 0, exchange_received = 0;  ///< factors of split tasks, packed results
  double dispatch_sent = 0, dispatch_received = 0;  ///< inputs of experts, and what they give
  double written = 0;                               ///< shards; the merge apart
};

struct RankWork {
  Flops flops;
  Traffic traffic;
};

/// Seconds, flops and bytes of one kind of stage over all layers.
struct StageCost {
  Stage stage = Stage::qkv;
  std::map<Phase, double> seconds;
  /// Work of factor and solution: the ranks' mean, and that of the busiest, added up over stages.
  double mean_work = 0, most_work = 0;
  double total() const;
  double balance() const { return most_work > 0 ? mean_work / most_work : 1; }
};

struct CostEstimate {
  RankWork all;   ///< of all ranks together
  RankWork most;  ///< each figure of the rank that has most of it
  std::vector<StageCost> stages;
  std::map<Phase, double> seconds;  ///< of all stages; a rank waits for all
  double total_seconds = 0;
  double balance = 1;        ///< mean work / work of the busiest rank, over factor and solve
  double least_balance = 1;  ///< of the stage with the least
  int token_ranks = 1;       ///< ranks with calibration tokens
  Index shard_files = 0;
  double shard_bytes = 0;    ///< and as much again in model.h5
  double hessian_bytes = 0;  ///< of --keep-hessians
};

struct CostOptions {
  Machine machine;
  int ranks_per_node = 1;
  int threads = 1;  ///< of a rank
  bool keep_hessians = false;
  bool bf16 = false;  ///< products of linears in the forward pass
  /// Stored bytes of a weight of the checkpoint.
  std::function<double(const LinearSpec&)> weight_bytes;
};

/// Every rank runs its own tokens, partial sums go to the owners and packed results to all; with
/// plan.dispatch the tokens of routed experts go to the owners instead. Routing is taken as even.
CostEstimate estimate_cost(const Model& model, const QuantizeSettings& settings, const Plan& plan,
                           const Workload& workload, const CostOptions& options);

}  // namespace aq
