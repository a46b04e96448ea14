#pragma once
/// Phases of a run, measured beside what was planned.

#include "pipeline/prepare.h"

namespace aq {

/// Fills `phases`, `planned_read` and `planned_written` of the summary. Collective.
void add_phase_records(const QuantizeOptions& options, const Prepared& prepared,
                       const PhaseTimes& times, Communicator& comm, RunSummary& summary);

}  // namespace aq
