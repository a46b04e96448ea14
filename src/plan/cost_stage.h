#pragma once
/// The ledger of one stage: what each rank does, and how long all wait for the slowest.

#include "aq/plan/cost.h"

namespace aq {

/// Tokens of every rank.
struct Dealt {
  explicit Dealt(const Workload& workload, int ranks);
  std::vector<double> tokens;     ///< of a rank
  std::vector<double> sequences;  ///< of a rank
  double all_tokens = 0;
};

/// What one rank does in one stage.
struct StageWork {
  RankWork work;
  double factors = 0;        ///< tasks that it factors
  double factor_flops = 0;   ///< of one of them
  double tiles = 0;          ///< row tiles that it solves
  double messages = 0;       ///< with factors
  double reduce_rounds = 0;  ///< in which ranks wait for each other
};

/// to += from.
void add(const RankWork& from, RankWork& to);
/// Of each figure the larger one.
void raise(const RankWork& from, RankWork& to);

/// Seconds of the phases from what each rank does. Ranks of a node share its memory, network and
/// files.
class StageClock {
 public:
  StageClock(const CostOptions& options, int ranks);
  /// Seconds of the slowest rank by phase; `gathered` bytes go from every rank to all.
  std::map<Phase, double> seconds(const std::vector<StageWork>& ranks, double gathered,
                                  double longest_slice) const;
  /// Of one rank that copies `bytes` of shards into one file.
  double merge_seconds(double bytes) const;

 private:
  double forward(const StageWork& rank) const;
  double factor(const StageWork& rank) const;
  double solve(const StageWork& rank) const;
  double transfer(double bytes, double messages) const;
  double exchange(const StageWork& rank, double gathered, double longest_slice) const;

  const CostOptions& options_;
  const Machine& machine_;
  int ranks_;
  double threads_;   ///< cores that a rank has
  double off_node_;  ///< share of a message's peers on other nodes
  double neighbours_;
};

}  // namespace aq
