#pragma once
/// Phases of a run, measured beside what was planned.

#include <optional>

#include "aq/core/timer.h"
#include "aq/report/summary.h"
#include "aq/run/prepare.h"

namespace aq {

/// The most that the plan has for a phase of any stage; nothing for phases that it leaves out.
std::optional<MemoryEstimate> planned_peak(const Plan& plan, Phase phase);
/// The summary of a run's matrices with its phases and what was planned. Collective.
RunSummary summarize_run(const QuantizeOptions& options, const Prepared& prepared,
                         const std::vector<LogRow>& log, const PhaseTimes& times,
                         Communicator& comm);
/// The most memory of each rank above its start, and the most in files of any. Collective.
void add_peak(Index bytes, Index offloaded, Communicator& comm, RunSummary& summary);

}  // namespace aq
