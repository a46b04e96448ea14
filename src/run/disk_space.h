#pragma once
/// Room on disks for what a run writes.

#include "aq/comm/communicator.h"
#include "aq/plan/plan.h"
#include "aq/run/options.h"

namespace aq {

/// Throws Error{input} unless shards, model.h5 and kept Hessians fit beside what is already there
/// of them, and what ranks are to offload where it goes, all of it at one time. Collective.
void check_disk(const QuantizeOptions& options, const Plan& plan, Communicator& comm);

}  // namespace aq
