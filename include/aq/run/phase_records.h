#pragma once
/// Phases of a run, measured beside what was planned.

#include "aq/core/timer.h"
#include "aq/report/summary.h"
#include "aq/run/prepare.h"

namespace aq {

/// The summary of a run's matrices with its phases and what was planned. Collective.
RunSummary summarize_run(const QuantizeOptions& options, const Prepared& prepared,
                         const std::vector<LogRow>& log, const PhaseTimes& times,
                         Communicator& comm);
/// The most memory of each rank above its start. Collective.
void add_peak(Index bytes, Communicator& comm, RunSummary& summary);

}  // namespace aq
