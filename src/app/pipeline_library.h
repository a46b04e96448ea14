#pragma once
/// Opens the library with the forward pass when a command needs it.

#include <functional>

#include "aq/pipeline/entry.h"

namespace aq::app {

/// Throws Error{internal} when the library was not built or cannot be loaded.
const PipelineEntry& pipeline();

/// Runs `body` on all ranks of the job. A failure of one rank ends the job with its exit code; an
/// orderly stop, which all ranks agree on, finishes MPI first.
int run_on_ranks(const std::function<int(Communicator&)>& body);

}  // namespace aq::app
