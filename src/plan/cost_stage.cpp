#include "plan/cost_stage.h"

#include <algorithm>
#include <cmath>

namespace aq {
namespace {

constexpr double kPiece = static_cast<double>(kPieceBytes);
/// Bytes that pass through memory to add a received sum: both are read, one is written.
constexpr double kAddTraffic = 3;
constexpr double kCopyTraffic = 2;  // a copy reads and writes

/// combine(figure of `from`, figure of `to`) for each of them.
template <class Combine>
void for_each_figure(const RankWork& from, RankWork& to, const Combine& combine) {
  for (const auto figure : {&Flops::forward, &Flops::attention, &Flops::hessian, &Flops::factor,
                            &Flops::solve, &Flops::refine})
    combine(from.flops.*figure, to.flops.*figure);
  for (const auto figure :
       {&Traffic::read, &Traffic::dequantized, &Traffic::reduce_sent, &Traffic::reduce_received,
        &Traffic::exchange_sent, &Traffic::exchange_received, &Traffic::dispatch_sent,
        &Traffic::dispatch_received, &Traffic::written})
    combine(from.traffic.*figure, to.traffic.*figure);
}

}  // namespace

void add(const RankWork& from, RankWork& to) {
  for_each_figure(from, to, [](double a, double& b) { b += a; });
}

void raise(const RankWork& from, RankWork& to) {
  for_each_figure(from, to, [](double a, double& b) { b = std::max(a, b); });
}

Dealt::Dealt(const Workload& workload, int ranks) {
  const LaneLayout& layout = workload.lanes;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range lanes = layout.lanes_of_rank(rank, ranks);
    Index count = 0;
    for (Index lane = lanes.begin; lane < lanes.end; ++lane)
      count += layout.sequences_of_lane(lane).size();
    sequences.push_back(static_cast<double>(count));
    tokens.push_back(static_cast<double>(count * workload.sequence_length));
    all_tokens += tokens.back();
  }
}

StageClock::StageClock(const CostOptions& options, int ranks)
    : options_(options), machine_(options.machine), ranks_(ranks) {
  neighbours_ = std::min(options.ranks_per_node, ranks);
  threads_ = std::min<double>(options.threads, static_cast<double>(machine_.cores) / neighbours_);
  off_node_ = ranks > neighbours_ ? 1 - (neighbours_ - 1) / (ranks - 1) : 0;
}

double StageClock::forward(const StageWork& rank) const {
  const bool narrow = options_.bf16 && machine_.forward_bf16_flops > 0;
  const double rate = narrow ? machine_.forward_bf16_flops : machine_.forward_flops;
  return (rank.work.flops.forward / rate + rank.work.flops.attention / machine_.forward_flops) /
             threads_ +
         rank.work.traffic.dequantized * neighbours_ / machine_.memory_bandwidth;
}

/// Tasks are factored a thread each, as many at a time as there are threads; a single one by all.
double StageClock::factor(const StageWork& rank) const {
  const double one = rank.factor_flops / machine_.factor_flops;
  const double whole = std::floor(rank.factors / options_.threads);
  const double rest = rank.factors - whole * options_.threads;
  const double share = options_.threads / threads_;  // more threads than cores take turns
  return one * share * whole + (rest == 1 ? one / threads_ : rest > 1 ? one * share : 0);
}

double StageClock::solve(const StageWork& rank) const {
  const double busy = std::max(1.0, std::min(threads_, rank.tiles));
  return (rank.work.flops.solve / machine_.solve_flops +
          rank.work.flops.refine / machine_.refine_flops) /
         busy;
}

double StageClock::transfer(double bytes, double messages) const {
  const double node = bytes * neighbours_;
  return off_node_ * node / machine_.network_bandwidth +
         (1 - off_node_) * node * kCopyTraffic / machine_.memory_bandwidth +
         messages * machine_.network_latency;
}

/// The packed results pass every node once, and once more every rank of it; in rounds of a few
/// pieces, each as many steps as ranks.
double StageClock::exchange(const StageWork& rank, double gathered, double longest_slice) const {
  if (ranks_ == 1) return gathered * kCopyTraffic / machine_.memory_bandwidth;
  const double factors =
      std::max(rank.work.traffic.exchange_sent, rank.work.traffic.exchange_received);
  const double rounds =
      std::ceil(longest_slice * ranks_ / (static_cast<double>(kGatherPieces) * kPiece));
  return transfer(factors, rank.messages) +
         (off_node_ > 0 ? gathered / machine_.network_bandwidth : 0) +
         gathered * neighbours_ * kCopyTraffic / machine_.memory_bandwidth +
         rounds * (ranks_ - 1) * machine_.network_latency;
}

std::map<Phase, double> StageClock::seconds(const std::vector<StageWork>& ranks, double gathered,
                                            double longest_slice) const {
  std::map<Phase, double> most;
  double all_read = 0, all_written = 0;
  const auto see = [&](Phase phase, double seconds) {
    if (seconds > 0) most[phase] = std::max(most[phase], seconds);
  };
  for (const StageWork& rank : ranks) {
    const Traffic& traffic = rank.work.traffic;
    see(Phase::forward, forward(rank));
    see(Phase::hessian, rank.work.flops.hessian / (machine_.hessian_flops * threads_));
    const double reduced = std::max(traffic.reduce_sent, traffic.reduce_received);
    see(Phase::reduce,
        transfer(reduced, std::ceil(reduced / kPiece) + rank.reduce_rounds) +
            traffic.reduce_received * kAddTraffic * neighbours_ / machine_.memory_bandwidth);
    const double moved = std::max(traffic.dispatch_sent, traffic.dispatch_received);
    see(Phase::dispatch, transfer(moved, std::ceil(moved / kPiece)));
    see(Phase::factor, factor(rank));
    see(Phase::solve, solve(rank));
    if (gathered > 0) see(Phase::exchange, exchange(rank, gathered, longest_slice));
    see(Phase::read, traffic.read * neighbours_ / machine_.read_bandwidth);
    see(Phase::write, traffic.written * neighbours_ / machine_.write_bandwidth);
    all_read += traffic.read;
    all_written += traffic.written;
  }
  see(Phase::read, all_read / machine_.file_system_bandwidth);
  see(Phase::write, all_written / machine_.file_system_bandwidth);
  return most;
}

double StageClock::merge_seconds(double bytes) const {
  return bytes / machine_.read_bandwidth + bytes / machine_.write_bandwidth;
}

}  // namespace aq
