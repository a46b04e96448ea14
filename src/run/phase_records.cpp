#include "aq/run/phase_records.h"

#include <algorithm>
#include <array>

#include "aq/core/host.h"
#include "aq/core/parallel.h"
#include "aq/plan/cost.h"

namespace aq {
namespace {

constexpr double kMicro = 1e6;  // seconds travel as whole microseconds

/// Measured on all ranks together.
PhaseRecord measure(Phase phase, const PhaseTimes& times, Communicator& comm) {
  PhaseRecord record;
  record.phase = phase;
  ResourceUse use;
  double seconds = 0;
  if (const auto found = times.use.find(phase); found != times.use.end()) use = found->second;
  if (const auto found = times.seconds.find(phase); found != times.seconds.end())
    seconds = found->second;
  std::array<std::int64_t, 4> most{use.peak_bytes, static_cast<std::int64_t>(seconds * kMicro),
                                   use.sent, use.received};
  std::array<std::int64_t, 4> all{use.read, use.written, use.sent, use.received};
  comm.all_reduce_max(most);
  comm.all_reduce_sum(all);
  record.peak_bytes = most[0];
  record.seconds = static_cast<double>(most[1]) / kMicro;
  record.most_sent = most[2];
  record.most_received = most[3];
  record.read = all[0];
  record.written = all[1];
  record.sent = all[2];
  record.received = all[3];
  return record;
}

void add_planned(const CostEstimate& cost, bool has_machine, const Plan& plan,
                 PhaseRecord& record) {
  if (const auto memory = planned_peak(plan, record.phase))
    record.planned_peak_bytes = memory->total();
  const auto seconds = cost.seconds.find(record.phase);
  if (has_machine && seconds != cost.seconds.end()) record.planned_seconds = seconds->second;
  if (record.phase == Phase::reduce)
    record.planned_sent = static_cast<Index>(cost.all.traffic.reduce_sent);
  if (record.phase == Phase::exchange)
    record.planned_sent = static_cast<Index>(cost.all.traffic.exchange_sent);
  if (record.phase == Phase::dispatch)
    record.planned_sent = static_cast<Index>(cost.all.traffic.dispatch_sent);
}

/// Every rank's seconds by phase. Collective.
std::vector<RankTimes> gather_times(const PhaseTimes& times, Communicator& comm) {
  std::vector<double> mine;
  for (const Phase phase : kPhases) {
    const auto found = times.seconds.find(phase);
    mine.push_back(found == times.seconds.end() ? 0 : found->second);
  }
  const std::vector<std::string> hosts = all_gather_values(comm, host_name());
  const std::vector<std::vector<double>> seconds = all_gather_values(comm, mine);
  std::vector<RankTimes> ranks;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    ranks.push_back({hosts[rank], {}});
    for (std::size_t phase = 0; phase < kPhases.size(); ++phase)
      ranks.back().seconds[kPhases[phase]] = seconds[rank][phase];
  }
  return ranks;
}

/// Fills phases, ranks and what was planned. Collective.
void add_phase_records(const QuantizeOptions& options, const Prepared& prepared,
                       const PhaseTimes& times, Communicator& comm, RunSummary& summary) {
  for (const Phase phase : kPhases) {
    summary.phases.push_back(measure(phase, times, comm));
    const PhaseRecord& last = summary.phases.back();
    if (last.seconds == 0 && last.peak_bytes == 0) summary.phases.pop_back();
  }
  summary.ranks = gather_times(times, comm);
  if (prepared.kept) return;  // no tokens: nothing of this was planned
  const CostEstimate& cost = prepared.cost;
  for (PhaseRecord& record : summary.phases)
    add_planned(cost, options.machine.has_value(), prepared.plan, record);
  if (options.machine) summary.planned_seconds = cost.total_seconds;
  // The second pass of a layer sends tokens too, but is measured as "forward".
  if (options.recipe.settings.sequential == Sequential::layer)
    for (PhaseRecord& record : summary.phases)
      if (record.phase == Phase::dispatch) record.planned_sent = -1;
  summary.planned_read = static_cast<Index>(cost.all.traffic.read);
  summary.planned_written = static_cast<Index>(2 * cost.shard_bytes + cost.hessian_bytes);
}

}  // namespace

std::optional<MemoryEstimate> planned_peak(const Plan& plan, Phase phase) {
  if (phase == Phase::read) phase = Phase::solve;
  std::optional<MemoryEstimate> most;
  for (const MemoryMoment& moment : plan.moments)
    if (moment.phase == phase && (!most || moment.memory.total() > most->total()))
      most = moment.memory;
  return most;
}

RunSummary summarize_run(const QuantizeOptions& options, const Prepared& prepared,
                         const std::vector<LogRow>& log, const PhaseTimes& times,
                         Communicator& comm) {
  RunSummary summary = summarize(log);
  summary.hessians_reused = prepared.kept.has_value();
  summary.untouched = prepared.plan.matrix_count - summary.matrices;
  summary.phase_seconds = times.seconds;
  summary.planned_bytes = prepared.plan.memory.total();
  summary.planned_offloaded = prepared.plan.offloaded_bytes;
  add_phase_records(options, prepared, times, comm, summary);
  return summary;
}

void add_peak(Index bytes, Index offloaded, Communicator& comm, RunSummary& summary) {
  summary.peak_rss_bytes.assign(comm.size(), 0);
  summary.peak_rss_bytes[comm.rank()] = bytes;
  comm.all_reduce_sum(summary.peak_rss_bytes);
  std::array<std::int64_t, 1> most{offloaded};
  comm.all_reduce_max(most);
  summary.offloaded_bytes = most[0];
}

}  // namespace aq
