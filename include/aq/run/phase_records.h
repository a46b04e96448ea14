#pragma once
/// Phases of a run, measured beside what was planned.

#include "aq/core/timer.h"
#include "aq/report/summary.h"
#include "aq/run/prepare.h"

namespace aq {

/// Fills `phases`, `planned_read` and `planned_written` of the summary. Collective.
void add_phase_records(const QuantizeOptions& options, const Prepared& prepared,
                       const PhaseTimes& times, Communicator& comm, RunSummary& summary);

}  // namespace aq
