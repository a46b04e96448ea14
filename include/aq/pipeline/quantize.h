#pragma once
/// The main job: from a checkpoint and calibration tokens to a directory of quantized matrices.

#include "aq/comm/communicator.h"
#include "aq/report/summary.h"
#include "aq/run/options.h"

namespace aq {

/// Collective; every rank returns the same summary. Threads: aq::set_thread_count. Prints the start
/// table and progress from the first rank. Throws Error{stopped} on every rank after a stop signal.
RunSummary quantize_model(const QuantizeOptions& options, Communicator& ranks);

}  // namespace aq
